//! A full table of sessions.

use super::*;

impl Bench {
    /// What a new mount of this credential is told.
    fn asks(&mut self, credential: u128, mount: u128) -> Result<Mounted, String> {
        let (volume, name) = (VolumeId(1), "main".to_owned());
        let grant = Grant { founding: FOUNDING, volume, name, access: Access::ReadWrite };
        let connection = self.connect_by(grant, CredentialId(credential));
        self.say(connection, ToLeader::Hello(Self::hello(mount)));
        self.commit();
        match self.take(connection) {
            Some(ToMount::Welcome(Welcome { session, caught_up_at, .. })) => {
                Ok(Mounted { connection, session, caught_up_at })
            }
            Some(ToMount::Refused { refusal: Refusal::Busy, reason }) => {
                assert!(self.closed.contains(&connection));
                Err(reason)
            }
            other => panic!("{other:?}"),
        }
    }

    fn crash(&mut self, mounted: Mounted) {
        self.input(Input::Closed { connection: mounted.connection });
    }
}

/// One credential in a crash loop locked out every volume: the refusal was for good, and live mounts ended by it.
#[test]
fn a_crash_loop_fills_its_own_part_and_gets_in_again_as_its_oldest_are_forgotten() {
    let mut bench = Bench::leading();
    let most = SESSIONS.per_credential as u128;
    for mount in 0..most {
        let mounted = bench.asks(1, mount).expect("there is room");
        bench.crash(mounted);
    }
    let refused = bench.asks(1, most).expect_err("full");
    assert!(refused.contains("this credential has") && refused.contains("waits"), "{refused}");
    assert!(bench.asks(2, 1000).is_ok(), "another credential does not notice");
    bench.wait(T.hold);
    let refused = bench.asks(1, most).expect_err("the oldest goes first");
    assert!(refused.contains("makes room"), "{refused}");
    bench.commit();
    assert!(bench.asks(1, most).is_ok(), "tried again");
    assert_eq!(bench.sessions(), SESSIONS.per_credential + 1, "no more than needed were ended");
}

#[test]
fn mounts_that_live_or_hold_something_keep_their_sessions() {
    let mut bench = Bench::leading();
    let most = SESSIONS.per_credential as u128;
    let living: Vec<_> = (0..most - 1).map(|mount| bench.asks(1, mount).expect("there is room")).collect();
    let holder = bench.asks(1, most - 1).expect("there is room");
    let name = Name::new(b"file").expect("a good name");
    let (node, parent) = (NewNode::File, Ino::ROOT);
    bench.change(holder, 1, Operation::Make { parent, name, node, mode: 0, uid: 0, gid: 0, delegate: true, umask: 0 });
    bench.crash(holder);
    bench.wait(T.hold / 2);
    let refused = bench.asks(1, most).expect_err("nobody can go");
    assert!(refused.contains("waits until one of them ends"), "{refused}");
    assert_eq!(bench.sessions(), SESSIONS.per_credential);
    assert!(living.iter().all(|mounted| !bench.closed.contains(&mounted.connection)));
}

#[test]
fn a_table_that_is_full_takes_from_whoever_has_most() {
    let mut bench = Bench::leading();
    let mut opened = 0;
    for credential in 1.. {
        // The first has more than any other.
        let count = if credential == 1 { SESSIONS.per_credential } else { SESSIONS.per_credential - 2 };
        for _ in 0..count {
            if opened == SESSIONS.total {
                break;
            }
            let mounted = bench.asks(credential, opened as u128).expect("there is room");
            bench.crash(mounted);
            opened += 1;
        }
        if opened == SESSIONS.total {
            break;
        }
    }
    bench.wait(T.hold);
    let refused = bench.asks(99, 5000).expect_err("full");
    assert!(refused.contains("the cluster has") && refused.contains("makes room"), "{refused}");
    bench.commit();
    let of_first = bench.state.volume_named("main").expect("main").sessions();
    let of_first = of_first.filter(|(_, session)| session.credential == CredentialId(1)).count();
    assert_eq!(of_first, SESSIONS.per_credential - 1);
    assert!(bench.asks(99, 5000).is_ok());
}

/// Four credentials with all the sessions they may have, connected and in use, locked out all others for good.
#[test]
fn credentials_with_many_connected_sessions_lock_nobody_out() {
    let mut bench = Bench::leading();
    let mut opened = Vec::new();
    for credential in 1.. {
        for _ in 0..SESSIONS.per_credential {
            if opened.len() < SESSIONS.total {
                opened.push(bench.asks(credential, opened.len() as u128).expect("there is room"));
            }
        }
        if opened.len() == SESSIONS.total {
            break;
        }
    }
    let refused = bench.asks(99, 5000).expect_err("full");
    assert!(refused.contains("makes room"), "{refused}");
    assert!(bench.asks(99, 5000).is_ok());
    let ended: Vec<usize> = (0..opened.len()).filter(|at| bench.closed.contains(&opened[*at].connection)).collect();
    assert_eq!(ended.len(), 1, "no more than needed were ended");
    assert_eq!(ended[0] % SESSIONS.per_credential, SESSIONS.per_credential - 1, "the newest of one that has most");
    // It does not get its place back from one that has no more than itself.
    let refused = bench.asks(1 + (ended[0] / SESSIONS.per_credential) as u128, 6000).expect_err("full");
    assert!(refused.contains("waits until one of them ends"), "{refused}");
}
