//! One file through every way of changing it, against a plain vector of bytes; with flushes, evictions, lost connections
//! and a second mount in between.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::*,
    scene::{Scene, config},
};
use crate::{namespace::AllocateMode, types::AttributeChanges};

/// Bytes of the file at most, in these tests.
const SIZE_MAX: u64 = 400_000;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        length: usize,
        byte: u8,
        sync: bool,
    },
    Append {
        length: usize,
        byte: u8,
    },
    Truncate {
        size: u64,
    },
    Punch {
        offset: u64,
        length: u64,
    },
    Flush,
    /// So long that what is dirty comes of age.
    Rest,
    Reconnect,
    Read {
        offset: u64,
        length: u32,
    },
    /// The other mount reads all of it, flushed or not.
    ReadElsewhere,
    /// The other mount writes a range, whatever this one has flushed.
    WriteElsewhere {
        offset: u64,
        length: usize,
        byte: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = 0..SIZE_MAX;
    let length = prop_oneof![4 => 1usize..300, 2 => 1usize..20_000, 1 => 60_000usize..200_000];
    prop_oneof![
        6 => (offset.clone(), length.clone(), any::<u8>(), prop::bool::weighted(0.1))
            .prop_map(|(offset, length, byte, sync)| Step::Write { offset, length, byte, sync }),
        3 => (length.clone(), any::<u8>()).prop_map(|(length, byte)| Step::Append { length, byte }),
        2 => offset.clone().prop_map(|size| Step::Truncate { size }),
        1 => (offset.clone(), 1u64..100_000).prop_map(|(offset, length)| Step::Punch { offset, length }),
        3 => Just(Step::Flush),
        1 => Just(Step::Rest),
        1 => Just(Step::Reconnect),
        4 => (offset.clone(), 1u32..300_000).prop_map(|(offset, length)| Step::Read { offset, length }),
        2 => Just(Step::ReadElsewhere),
        2 => (offset, length, any::<u8>())
            .prop_map(|(offset, length, byte)| Step::WriteElsewhere { offset, length, byte }),
    ]
}

fn put(model: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    model.resize(model.len().max(to), 0);
    model[from..to].copy_from_slice(data);
}

/// Bytes that differ from place to place, so that a shift is noticed.
fn data(length: usize, byte: u8) -> Vec<u8> {
    (0..length).map(|at| byte.wrapping_add((at % 251) as u8)).collect()
}

fn run(steps: &[Step], content_cache_bytes: usize) {
    let small = Config { content_cache_bytes, ..config(0) };
    let mut scene = Scene::with(vec![small, config(1)]);
    let (file, fh) = scene.create(0, "f");
    scene.lookup(1, Ino::ROOT, "f");
    let append = scene.open(0, file, OpenFlags { write: true, append: true, ..OpenFlags::default() }).fh;
    let other = scene.open(1, file, OpenFlags { write: true, ..OpenFlags::default() }).fh;
    let mut model: Vec<u8> = Vec::new();
    for step in steps {
        match *step {
            Step::Write { offset, length, byte, sync } => {
                let bytes = data(length, byte);
                put(&mut model, offset, &bytes);
                let flags = WriteFlags { sync, ..WriteFlags::default() };
                let request = Request::Write { ino: file, fh, offset, data: bytes.into(), flags };
                assert_eq!(scene.call(0, request), Ok(Response::Written { length: length as u32 }));
            }
            Step::Append { length, byte } => {
                let bytes = data(length, byte);
                let end = model.len() as u64;
                put(&mut model, end, &bytes);
                let flags = WriteFlags { append: true, ..WriteFlags::default() };
                let request = Request::Write { ino: file, fh: append, offset: 0, data: Bytes::from(bytes), flags };
                assert_eq!(scene.call(0, request), Ok(Response::Written { length: length as u32 }));
            }
            Step::Truncate { size } => {
                model.resize(size as usize, 0);
                let changes = AttributeChanges { size: Some(size), ..AttributeChanges::default() };
                assert!(scene.call(0, Request::Setattr { ino: file, changes }).is_ok());
            }
            Step::Punch { offset, length } => {
                let end = model.len().min((offset + length) as usize);
                if (offset as usize) < end {
                    model[offset as usize..end].fill(0);
                }
                let request = Request::Allocate { ino: file, fh, mode: AllocateMode::Punch, offset, length };
                assert_eq!(scene.call(0, request), Ok(Response::Done));
            }
            Step::Flush => scene.flush(0, file, fh),
            Step::Rest => scene.pass(Duration::from_millis(1_100)),
            Step::Reconnect => {
                scene.disconnect(0);
                scene.pass(Duration::from_millis(400));
            }
            Step::Read { offset, length } => {
                let from = model.len().min(offset as usize);
                let to = model.len().min(offset as usize + length as usize);
                assert!(scene.read(0, file, offset, length) == model[from..to], "{step:?} shows other bytes");
                assert_eq!(scene.getattr(0, file).0.size, model.len() as u64);
            }
            Step::ReadElsewhere => {
                assert!(scene.read(1, file, 0, 1 << 20) == model, "the other mount shows other bytes");
            }
            Step::WriteElsewhere { offset, length, byte } => {
                let bytes = data(length, byte);
                put(&mut model, offset, &bytes);
                scene.write(1, file, other, offset, &bytes);
            }
        }
    }
    scene.flush(0, file, fh);
    scene.flush(1, file, other);
    for side in 0..2 {
        assert!(scene.read(side, file, 0, 1 << 20) == model, "mount {side} shows other bytes at the end");
        assert_eq!(scene.getattr(side, file).0.size, model.len() as u64);
        assert_eq!(scene.sides[side].mount.status().digest, scene.leader.volume.digest());
        assert_eq!(scene.sides[side].mount.status().dirty_bytes, 0);
        assert_eq!(scene.hanging(side), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_what_was_written_to_it(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps, 1 << 20);
    }

    #[test]
    fn a_file_is_what_was_written_to_it_without_a_cache(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps, 0);
    }
}
