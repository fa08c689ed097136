//! A process reads what its own write() has returned for, while others write beside it.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::support::Cluster;

const STRIPE_BYTES: usize = 640;
const STRIPES: usize = 16;
const TIME: Duration = Duration::from_secs(4);

/// Writes to every `of`th stripe, and says how many of the reads behind that were old.
fn work(path: &Path, (number, of): (usize, usize)) -> usize {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let mut wanted = vec![[0; STRIPE_BYTES]; STRIPES];
    let (mut old, begun, mut count) = (0, Instant::now(), 0_usize);
    while begun.elapsed() < TIME {
        count += 1;
        if count % 3 == 0 {
            // The kernel hears of a new mtime, and drops its pages.
            file.metadata().expect("fstat");
        }
        let stripe = count * 7 % (STRIPES / of) * of + number;
        let at = count * 53 % STRIPE_BYTES;
        let length = 1 + count * 31 % (STRIPE_BYTES - at);
        let place = (stripe * STRIPE_BYTES) as u64;
        let bytes = vec![b'A' + (count % 26) as u8; length];
        assert_eq!(file.write_at(&bytes, place + at as u64).expect("write"), length);
        wanted[stripe][at..at + length].copy_from_slice(&bytes);
        let mut found = [0; STRIPE_BYTES];
        file.read_exact_at(&mut found, place).expect("read");
        if found != wanted[stripe] {
            old += 1;
            wanted[stripe] = found;
        }
    }
    old
}

/// Every mount serves with several threads, and has four processes of its own.
fn works_side_by_side(mounts: usize, options: &[&str]) {
    let cluster = Cluster::found();
    let mounts: Vec<_> = (0..mounts).map(|_| cluster.mount_with(options)).collect();
    let file = File::create(mounts[0].path.join("stripes")).expect("create");
    file.set_len((STRIPES * STRIPE_BYTES) as u64).expect("ftruncate");
    drop(file);
    let of = 4 * mounts.len();
    let old: usize = thread::scope(|scope| {
        let workers: Vec<_> = (0..of)
            .map(|number| {
                let path = mounts[number % mounts.len()].path.join("stripes");
                scope.spawn(move || work(&path, (number, of)))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    assert_eq!(old, 0, "old reads");
}

#[test]
fn a_process_reads_what_its_own_write_returned_for() {
    works_side_by_side(1, &["--threads=4"]);
}

#[test]
fn a_process_reads_what_its_own_write_returned_for_where_opens_are_not_told() {
    works_side_by_side(1, &["--threads=4", "--opens=untracked"]);
}

#[test]
fn a_process_reads_what_its_own_write_returned_for_where_two_mounts_write() {
    works_side_by_side(2, &["--threads=4"]);
}
