//! Files in very many pieces: no entry touches more rows than a bound, however large what it is about. What is more is
//! asked for again, and every state on the way is one that the file may have.

use super::*;

/// A file with so many extents of 7 bytes, each on a page of its own.
pub(super) fn fragmented(node: &mut Node, file: &str, extents: u64) -> Ino {
    let ino = node.file(file);
    for from in (0..extents).step_by(250) {
        let pieces = (from..(from + 250).min(extents)).map(|number| piece(number * 4096, 7)).collect();
        node.ask(write(ino, pieces)).expect("written");
    }
    ino
}

/// The entry's outcome; it changed no more rows than one may.
fn bounded(node: &mut Node, call: (SessionId, Sequence), command: Command) -> Result<Reply, Errno> {
    let applied = node.apply(MAIN, call, command);
    assert!(applied.effects.rows.len() <= limits::ENTRY_ROWS_MAX, "{} rows", applied.effects.rows.len());
    applied.outcome
}

pub(super) fn ask(node: &mut Node, operation: Operation) -> Result<Reply, Errno> {
    bounded(node, (SessionId(0), Sequence(0)), Command::Operation(operation))
}

fn extents(node: &Node, ino: Ino) -> Vec<(u64, u64, Option<BlockHash>)> {
    node.volume().extents(ino, 0, u64::MAX).map(|extent| (extent.offset, extent.length, extent.block)).collect()
}

/// One small entry copied every extent of a file, and a chain of such entries doubled them each time.
#[test]
fn a_copy_is_short_where_the_source_is_in_many_pieces() {
    let mut node = Node::new();
    let file = fragmented(&mut node, "f", 2000);
    let mut size = 2000 * 4096;
    for _ in 0..4 {
        let copy = Operation::CopyRange { from: file, from_offset: 0, to: file, to_offset: size, length: size };
        let Ok(Reply::Copied { length }) = ask(&mut node, copy) else { panic!("not copied") };
        assert!(length > 0);
        size += length;
    }
    // The target in many pieces, the source in one.
    let plain = node.file("plain");
    node.write(plain, 0, 1 << 20).expect("written");
    let copy = Operation::CopyRange { from: plain, from_offset: 0, to: file, to_offset: 0, length: 1 << 20 };
    assert_eq!(ask(&mut node, copy), Ok(Reply::Copied { length: 1 << 20 }));
    let dense = node.file("dense");
    for from in (0..1000).step_by(250) {
        let pieces = (from..from + 250).map(|number| piece(number * 2, 1)).collect();
        node.ask(write(dense, pieces)).expect("written");
    }
    let copy = Operation::CopyRange { from: plain, from_offset: 0, to: dense, to_offset: 0, length: 1 << 20 };
    assert_eq!(ask(&mut node, copy), Ok(Reply::Copied { length: 1000 }));
    node.starts_again();
}

#[test]
fn a_file_in_many_pieces_is_cut_from_its_end_in_steps() {
    for by_flush in [false, true] {
        let mut node = Node::new();
        let file = fragmented(&mut node, "f", 2500);
        let (whole, session) = (extents(&node, file), node.session());
        let mut calls = 1..;
        let mut next = || (session, Sequence(calls.next().expect("endless")));
        assert_eq!(bounded(&mut node, next(), Command::Operation(Operation::Delegate { ino: file })), Ok(Reply::Done));
        let grant = node.volume().delegation(file).expect("granted").grant;
        let changes = AttributeChanges { size: Some(100 * 4096), mode: Some(0o600), ..Default::default() };
        let flush = Flush {
            cut: Some(100 * 4096),
            changes: AttributeChanges { size: None, ..changes },
            give_back: true,
            ..Flush::of(file, grant)
        };
        let operation = match by_flush {
            true => Operation::Flush(Box::new(flush)),
            false => Operation::SetAttributes { ino: file, changes },
        };
        let (mut steps, mut before) = (0, node.volume().inode(file).expect("there").size);
        while bounded(&mut node, next(), Command::Operation(operation.clone())) == Ok(Reply::Unfinished) {
            let inode = node.volume().inode(file).expect("there");
            assert!(inode.size < before && inode.size > 100 * 4096);
            assert!(whole.starts_with(&extents(&node, file)), "a file that was cut less");
            assert_ne!(inode.mode, 0o600, "all else comes with the end");
            before = inode.size;
            node.starts_again();
            steps += 1;
        }
        let inode = node.volume().inode(file).expect("there");
        assert_eq!((steps, inode.size, inode.mode), (2, 100 * 4096, 0o600));
        assert_eq!(extents(&node, file), whole[..100]);
        assert_eq!((node.volume().further_extents(), node.volume().bytes_used()), (99, 700));
        node.starts_again();
    }
}

#[test]
fn a_range_in_many_pieces_is_punched_in_steps_and_not_moved() {
    let mut node = Node::new();
    let file = fragmented(&mut node, "f", 2500);
    let whole = extents(&node, file);
    let allocate = |mode, offset, length| Operation::Allocate { ino: file, mode, offset, length, at_most: u64::MAX };
    for mode in [AllocateMode::Collapse, AllocateMode::Insert] {
        assert_eq!(ask(&mut node, allocate(mode, 0, 4096)), Err(Errno::EOPNOTSUPP));
        assert_eq!(extents(&node, file), whole);
    }
    let punch = allocate(AllocateMode::Punch, 4096, 2400 * 4096);
    assert_eq!(ask(&mut node, punch.clone()), Ok(Reply::Unfinished));
    assert_eq!(extents(&node, file), [&whole[..1], &whole[1001..]].concat());
    assert_eq!(ask(&mut node, punch.clone()), Ok(Reply::Unfinished));
    assert_eq!(ask(&mut node, punch), Ok(Reply::Done));
    let zero = allocate(AllocateMode::Zero { keep_size: false }, 0, 3000 * 4096);
    assert_eq!(ask(&mut node, zero), Ok(Reply::Done));
    assert_eq!(node.volume().inode(file).map(|inode| inode.size), Some(3000 * 4096));
    let bytes = 3000 * 4096;
    assert_eq!((node.volume().further_extents(), node.volume().bytes_used()), (0, bytes), "reserved");
    assert_eq!(node.volume().reserved_bytes(), bytes);
    node.starts_again();
}

/// Each piece of a write is atomic where it can be: of one over very many extents only a part may be seen.
#[test]
fn what_is_written_over_many_pieces_is_written_in_steps() {
    let mut node = Node::new();
    let file = fragmented(&mut node, "f", 2500);
    let large: Vec<Piece> = (0..10).map(|number| piece(number << 20, 1 << 20)).collect();
    let operation = write(file, large.clone());
    let mut steps = 0;
    while ask(&mut node, operation.clone()) == Ok(Reply::Unfinished) {
        steps += 1;
        let written = extents(&node, file).iter().take_while(|(_, length, _)| *length == 1 << 20).count();
        assert_eq!(
            extents(&node, file)[written..].iter().filter(|(_, length, _)| *length != 7).count(),
            0,
            "whole pieces"
        );
        assert!(written >= 3 * steps);
    }
    assert_eq!((steps, extents(&node, file).len()), (2, 10));

    // Bytes that lie alone, more of them below one piece than any entry takes.
    let dense = node.file("dense");
    for from in (0..2250).step_by(250) {
        let pieces = (from..from + 250).map(|number| piece(number * 2, 1)).collect();
        node.ask(write(dense, pieces)).expect("written");
    }
    let operation = write(dense, vec![piece(0, 1 << 20)]);
    let (mut steps, mut reached) = (0, 0);
    while ask(&mut node, operation.clone()) == Ok(Reply::Unfinished) {
        steps += 1;
        let first = extents(&node, dense)[0];
        assert!(first.1 > reached, "it gets on");
        reached = first.1;
        node.starts_again();
    }
    assert_eq!((steps, extents(&node, dense).len()), (2, 1));
    node.starts_again();
}

/// A session that ends takes its answers and its holds with it, and so may a thousand sessions at once.
#[test]
fn sessions_and_what_they_hold_end_in_steps() {
    let mut node = Node::new();
    let leader = (SessionId(0), Sequence(0));
    let sessions: Vec<SessionId> = (0..3)
        .map(|number| {
            let open = Command::OpenSession { mount: MountId(number), credential: Default::default(), level_max: 1 };
            node.main(open).session.expect("opened")
        })
        .collect();
    for number in 0..limits::SESSION_REPLIES_MAX as u64 {
        let made = make_file(&format!("f{number}"), false);
        for (at, session) in sessions.iter().enumerate() {
            let operation = match at {
                0 => made.clone(),
                _ => Operation::Unlink { parent: Ino::ROOT, name: name("none") },
            };
            node.apply(MAIN, (*session, Sequence(number + 1)), Command::Operation(operation));
        }
    }
    let files: Vec<Ino> = node.volume().entries_after(Ino::ROOT, 0).map(|(_, _, ino, _)| ino).collect();
    let lock = |ino| Operation::Lock {
        ino,
        claim: LockClaim {
            family: LockFamily::Flock,
            owner: 1,
            kind: LockKind::Exclusive,
            range: LockRange { first: 0, last: u64::MAX },
            pid: 1,
            fh: 1,
        },
        waits: false,
    };
    for (number, ino) in files.iter().enumerate() {
        let call = |at: u64| (sessions[0], Sequence(5000 + 2 * number as u64 + at));
        let delegate = Operation::Delegate { ino: *ino };
        assert_eq!(node.apply(MAIN, call(0), Command::Operation(delegate)).outcome, Ok(Reply::Done));
        assert_eq!(node.apply(MAIN, call(1), Command::Operation(lock(*ino))).outcome, Ok(Reply::Locked));
    }
    let end = || Command::EndHolds { session: sessions[0] };
    let mut steps = 0;
    while bounded(&mut node, leader, end()) == Ok(Reply::Unfinished) {
        let since = node.volume().session(sessions[0]).map(|session| session.holds_since);
        assert_eq!(since, Some(LogIndex(node.index)), "what was done under them is refused from the first step on");
        steps += 1;
        node.starts_again();
    }
    assert_eq!((steps, node.volume().holders().len()), (2, 0));
    let close = || Command::CloseSessions { sessions: sessions.clone() };
    let mut steps = 0;
    while bounded(&mut node, leader, close()) == Ok(Reply::Unfinished) {
        steps += 1;
        let last = Sequence(limits::SESSION_REPLIES_MAX as u64);
        for (session, _) in node.volume().sessions().filter(|(session, _)| *session != sessions[0]) {
            let reply = node.volume().reply(session, last);
            assert!(reply.is_some(), "as long as the session is there, so are its answers");
        }
        node.starts_again();
    }
    assert_eq!((steps, node.volume().sessions().count()), (2, 0));
    node.starts_again();
}
