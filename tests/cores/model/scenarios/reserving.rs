//! fallocate reserves: what succeeded is there when it is written, whatever else is.

use super::*;

fn allocate(ino: Ino, mode: AllocateMode, offset: u64, length: u64) -> Operation {
    Operation::Allocate { ino, mode, offset, length, at_most: u64::MAX }
}

/// Where its extents lie, and which of them are reserved.
fn shape(node: &Node, ino: Ino) -> Vec<(u64, u64, bool)> {
    let extents = node.volume().extents(ino, 0, u64::MAX);
    extents.map(|extent| (extent.offset, extent.length, extent.block.is_none())).collect()
}

fn counted(node: &Node) -> (u64, u64) {
    (node.volume().bytes_used(), node.volume().reserved_bytes())
}

/// Success was said, and the write that came then failed.
#[test]
fn what_is_reserved_can_be_written_though_the_quota_is_used_up() {
    let mut node = Node::with_quotas(Some(100_000), None);
    let (file, other) = (node.file("f"), node.file("other"));
    node.ask(allocate(file, AllocateMode::Extend, 0, 60_000)).expect("reserved");
    assert_eq!(counted(&node), (60_000, 60_000));
    assert_eq!(node.volume().attributes(file).map(|shown| (shown.size, shown.blocks)), Some((60_000, 118)));
    assert_eq!(node.write(other, 0, 40_001), Err(Errno::EDQUOT));
    assert_eq!(node.ask(allocate(other, AllocateMode::Extend, 0, 40_001)), Err(Errno::EDQUOT));
    assert_eq!(shape(&node, other), []);
    node.write(other, 0, 40_000).expect("as much as is left");
    node.write(file, 0, 60_000).expect("its place is reserved");
    assert_eq!(counted(&node), (100_000, 0));
    assert_eq!(node.write(file, 60_000, 1), Err(Errno::EDQUOT));
    node.ask(allocate(file, AllocateMode::Extend, 0, 60_000)).expect("nothing is missing");
    node.starts_again();
}

/// The leader found space for the hole that it saw, and a cut that was on its way made it larger.
#[test]
fn no_more_is_reserved_than_space_was_found_for() {
    let mut node = Node::new();
    let file = node.file("f");
    let allocate =
        |length, at_most| Operation::Allocate { ino: file, mode: AllocateMode::Extend, offset: 0, length, at_most };
    assert_eq!(node.ask(allocate(100, 99)), Err(Errno::EAGAIN));
    assert_eq!((shape(&node, file), counted(&node)), (vec![], (0, 0)));
    node.ask(allocate(100, 100)).expect("reserved");
    node.ask(allocate(100, 0)).expect("nothing is missing");
    node.starts_again();
}

#[test]
fn a_reservation_is_ended_by_a_write_a_hole_a_cut_and_the_end_of_the_file() {
    let mut node = Node::new();
    let file = node.file("f");
    node.write(file, 10, 10).expect("write");
    node.ask(allocate(file, AllocateMode::KeepSize, 0, 100)).expect("reserved");
    assert_eq!(shape(&node, file), [(0, 10, true), (10, 10, false), (20, 80, true)]);
    assert_eq!(node.volume().inode(file).map(|inode| inode.size), Some(20));
    node.starts_again();
    node.write(file, 30, 10).expect("write");
    assert_eq!(shape(&node, file)[2..], [(20, 10, true), (30, 10, false), (40, 60, true)]);
    node.ask(allocate(file, AllocateMode::Punch, 35, 10)).expect("punch");
    assert_eq!(shape(&node, file)[3..], [(30, 5, false), (45, 55, true)]);
    let size = |size| Operation::SetAttributes {
        ino: file,
        changes: AttributeChanges { size: Some(size), ..AttributeChanges::default() },
    };
    node.ask(size(50)).expect("longer");
    assert_eq!(shape(&node, file)[4..], [(45, 55, true)], "what lies behind the end stays");
    node.ask(size(50)).expect("the same size");
    assert_eq!(shape(&node, file)[4..], [(45, 5, true)], "and goes with a cut");
    assert_eq!(counted(&node), (40, 25));
    let name = Name::new(b"f").expect("a name");
    node.ask(Operation::Unlink { parent: Ino::ROOT, name }).expect("unlink");
    node.apply(MAIN, (SessionId(0), Sequence(0)), Command::ReapOrphans { inodes: vec![file] });
    assert_eq!(counted(&node), (0, 0));
    node.starts_again();
}

#[test]
fn a_range_of_zeros_is_reserved_and_one_reservation_is_one_extent() {
    let mut node = Node::new();
    let file = node.file("f");
    node.write(file, 0, 100).expect("write");
    node.ask(allocate(file, AllocateMode::Zero { keep_size: false }, 50, 100)).expect("zero");
    for offset in (200..1000).step_by(100) {
        node.ask(allocate(file, AllocateMode::KeepSize, offset, 100)).expect("reserved");
    }
    assert_eq!(shape(&node, file), [(0, 50, false), (50, 100, true), (200, 800, true)]);
    node.ask(allocate(file, AllocateMode::Extend, 0, 1000)).expect("reserved");
    assert_eq!(shape(&node, file), [(0, 50, false), (50, 950, true)]);
    let largest = limits::FILE_BYTES_MAX;
    node.ask(allocate(file, AllocateMode::KeepSize, 1000, largest - 1000)).expect("up to the largest file");
    assert_eq!(shape(&node, file)[1], (50, largest - 50, true));
    assert_eq!(node.ask(allocate(file, AllocateMode::Insert, 0, 4096)), Err(Errno::EFBIG), "it would go beyond it");
    node.starts_again();
}

#[test]
fn a_copy_brings_no_reservation_along() {
    let mut node = Node::new();
    let (from, to) = (node.file("from"), node.file("to"));
    node.write(from, 0, 10).expect("write");
    node.ask(allocate(from, AllocateMode::Extend, 0, 100)).expect("reserved");
    let copy = Operation::CopyRange { from, from_offset: 0, to, to_offset: 0, length: 100 };
    assert_eq!(node.ask(copy), Ok(Reply::Copied { length: 100 }));
    assert_eq!((shape(&node, to), counted(&node)), (vec![(0, 10, false)], (110, 90)));
}

/// However many holes: no entry reserves more than it may, and asked again it goes on.
#[test]
fn many_holes_are_reserved_in_steps_or_none_where_the_whole_is_too_much() {
    const FILE: u64 = 2500 * 4096;
    for (quota, expected) in [(None, 3), (Some(FILE), 3), (Some(FILE - 1), 0)] {
        let mut node = Node::with_quotas(quota, None);
        let file = super::fragments::fragmented(&mut node, "f", 2500);
        let mut steps = 0;
        let outcome = loop {
            match super::fragments::ask(&mut node, allocate(file, AllocateMode::Extend, 0, FILE)) {
                Ok(Reply::Unfinished) => steps += 1,
                Ok(_) => break Ok(steps + 1),
                Err(errno) => break Err(errno),
            }
        };
        if expected == 0 {
            assert_eq!((outcome, counted(&node)), (Err(Errno::EDQUOT), (2500 * 7, 0)));
        } else {
            assert_eq!((outcome, counted(&node)), (Ok(expected), (FILE, FILE - 2500 * 7)));
            let cut = Operation::SetAttributes {
                ino: file,
                changes: AttributeChanges { size: Some(0), ..AttributeChanges::default() },
            };
            while super::fragments::ask(&mut node, cut.clone()) == Ok(Reply::Unfinished) {
                node.starts_again();
            }
            assert_eq!(counted(&node), (0, 0));
        }
    }
}
