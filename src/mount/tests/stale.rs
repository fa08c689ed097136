//! A mount whose volume is deleted while it is in use. It ended, and its programs went on in the directory below.

use std::time::Duration;

use super::{
    super::*,
    belief::answered_behind_a_size,
    scene::{Scene, name},
};
use crate::{
    message::mount::{Refusal, ToMount},
    namespace::NewNode,
};

fn lookup(text: &str) -> Request {
    Request::Lookup { parent: Ino::ROOT, name: name(text) }
}

fn mkdir(text: &str) -> Request {
    Request::Make { parent: Ino::ROOT, name: name(text), node: NewNode::Directory, mode: 0o755, umask: 0 }
}

#[test]
fn it_stays_and_answers_estale() {
    for mut scene in [Scene::new(2), Scene::with_epoch(2)] {
        let (file, fh) = scene.create(0, "a");
        scene.write(0, file, fh, 0, b"bytes that are not synced");
        scene.lookup(0, Ino::ROOT, "missing");
        // Requests that wait: for the log, for another mount's delegation, for the log behind that.
        let (other, other_fh) = scene.create(1, "b");
        scene.write(1, other, other_fh, 0, b"there");
        scene.lookup(0, Ino::ROOT, "b");
        scene.leader.answers_nothing = true;
        scene.leader.proposes_nothing = true;
        let waiting = [
            scene.send(0, mkdir("d")),
            scene.send(0, Request::Fsync { ino: file, fh }),
            scene.send(0, Request::Read { ino: other, fh: 0, offset: 0, length: 10 }),
        ];
        scene.forget_notified();
        assert!(waiting.iter().any(|unique| scene.answer(0, *unique).is_none()), "something waits");
        scene.refuse(0, Refusal::Permanent, "the volume was deleted");
        for unique in waiting {
            assert!(
                matches!(scene.answer(0, unique), Some(Err(Errno::ESTALE) | Ok(_))),
                "{:?}",
                scene.answer(0, unique)
            );
        }
        assert_eq!(scene.answer(0, waiting[0]), Some(Err(Errno::ESTALE)));
        let side = &scene.sides[0];
        let sentence = side.stale.clone().expect("an operator is told");
        assert!(sentence.contains("the volume was deleted") && sentence.contains("ESTALE"), "{sentence}");
        assert!(sentence.contains("25 bytes"), "{sentence}");
        assert_eq!((side.fatal.clone(), side.is_stopped), (None, false));
        // The kernel asks about everything again.
        let told = |notification: &Notification| side.notified.contains(notification);
        for ino in [Ino::ROOT, file] {
            assert!(told(&Notification::of_pages(ino, (0, u64::MAX))), "{ino}: {:?}", side.notified);
        }
        let missing = Notification::Name { parent: Ino::ROOT, name: name("missing") };
        assert!(told(&missing) || told(&Notification::AllNames), "{:?}", side.notified);

        let requests = [
            lookup("a"),
            lookup("new"),
            mkdir("e"),
            Scene::create_request("f"),
            Scene::write_request(file, fh, 0, b"x"),
            Request::Read { ino: file, fh, offset: 0, length: 10 },
            Request::Fsync { ino: file, fh },
            Request::Flush { ino: file, fh, owner: 0 },
            Request::Open { ino: file, flags: OpenFlags::default() },
            Request::Statfs,
        ];
        for request in requests {
            assert_eq!(scene.call(0, request.clone()), Err(Errno::ESTALE), "{request:?}");
        }
        assert_eq!(scene.call(0, Request::Release { ino: file, fh }), Ok(Response::Done));
        scene.forget(0, file, 1);
        scene.pass(Duration::from_secs(100));
        assert_eq!(scene.sides[0].mount.poll_timeout(), None, "it does nothing of itself");
        scene.stop(0);
        assert!(scene.sides[0].is_stopped, "unmounted, it ends in order");
    }
}

/// A mount that is being unmounted has nobody who could write below.
#[test]
fn one_that_is_ending_ends() {
    let mut scene = Scene::new(1);
    let (file, fh) = scene.create(0, "a");
    scene.write(0, file, fh, 0, b"not synced");
    scene.leader.proposes_nothing = true;
    scene.stop(0);
    assert!(!scene.sides[0].is_stopped, "it flushes");
    scene.refuse(0, Refusal::Permanent, "the volume was deleted");
    assert!(scene.sides[0].is_stopped);
    assert!(scene.sides[0].notices.iter().any(|notice| notice.contains("10 written bytes")));
}

impl Scene {
    fn refuse(&mut self, side: usize, refusal: Refusal, reason: &str) {
        let connection = self.sides[side].connection.take().expect("connected");
        let message = ToMount::Refused { refusal, reason: reason.to_owned() };
        self.sides[side].mount.handle(self.now, Input::Message { connection, message });
        self.settle();
    }
}

/// Its caller waited for ever: what came when the kernel had been told was thrown away with the volume.
#[test]
fn an_answer_that_waits_until_the_kernel_is_told_a_size_is_given() {
    let (mut scene, _, asked) = answered_behind_a_size();
    scene.refuse(1, Refusal::Permanent, "the volume was deleted");
    scene.sides[1].is_stalled = false;
    scene.settle();
    assert!(scene.answer(1, asked).is_some());
}
