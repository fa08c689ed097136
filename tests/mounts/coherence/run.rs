//! Writers and readers on all mounts for a while, and the verdict on what they did and saw.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    dice::Dice,
    ground::Ground,
    history::{Change, History},
    judge::{Fault, Judge, Verdict},
    reader::Reader,
    world::World,
    writer::Writer,
};

const WRITERS: usize = 2;
const READERS: usize = 2;
/// After so long all calls end, and are judged; what follows is a run of its own on what is there.
const PHASE: Duration = Duration::from_secs(5);
/// Looks between pauses, in which others get the processor.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_micros(200);
/// Faults that are told in full.
const TOLD: usize = 5;

pub(crate) struct Run {
    world: World,
    roots: Vec<PathBuf>,
    writing: Vec<bool>,
}

impl Run {
    pub(crate) fn new(ground: &Ground) -> Self {
        let roots = ground.roots();
        let writing = vec![true; roots.len()];
        Self { world: World::new(), roots, writing }
    }

    /// Nothing is written through this mount.
    pub(crate) fn only_reading_at(mut self, mount: usize) -> Self {
        self.writing[mount] = false;
        self
    }

    /// Works for so long, in phases; `disturb` is called once in each.
    pub(crate) fn last(self, duration: Duration, mut disturb: impl FnMut()) -> Verdict {
        let mut lasting = World::beginning();
        let mut verdict = Verdict::default();
        let begun = Instant::now();
        for phase in 0.. {
            if begun.elapsed() >= duration || verdict.faults.len() > TOLD {
                break;
            }
            let history = self.phase(phase, duration.saturating_sub(begun.elapsed()).min(PHASE), &mut disturb);
            lasting.extend(&history.changes);
            let judge = Judge::new(&lasting);
            let found = judge.judge(&history);
            tell(&found.faults, &lasting);
            verdict.append(found);
            lasting = judge.lasting();
        }
        eprintln!("{verdict}");
        verdict
    }

    fn phase(&self, phase: usize, duration: Duration, disturb: &mut impl FnMut()) -> History {
        let is_over = AtomicBool::new(false);
        let end = Instant::now() + duration;
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (mount, root) in self.roots.iter().enumerate() {
                for thread in 0..WRITERS + READERS {
                    let seed = (phase * 100 + mount * 10 + thread) as u64;
                    let (world, is_over, dice) = (&self.world, &is_over, Dice::new(seed));
                    if thread < READERS {
                        workers.push(scope.spawn(move || {
                            let mut reader = Reader::new(world, mount, root, dice);
                            while !is_over.load(Relaxed) {
                                (0..LOOKS).for_each(|_| reader.step());
                                thread::sleep(PAUSE);
                            }
                            reader.finish()
                        }));
                    } else if self.writing[mount] {
                        workers.push(scope.spawn(move || {
                            let mut writer = Writer::new(world, mount, root, dice);
                            while !is_over.load(Relaxed) {
                                writer.step();
                            }
                            writer.finish()
                        }));
                    }
                }
            }
            disturb();
            thread::sleep(end.saturating_duration_since(Instant::now()));
            is_over.store(true, Relaxed);
            let mut history = History::default();
            for worker in workers {
                history.append(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            history
        })
    }
}

impl Verdict {
    /// Also that there was something to judge.
    pub(crate) fn must_be_good(&self) {
        assert!(self.faults.is_empty(), "{} faults; the first are told above", self.faults.len());
        assert!(self.hot > 100 && self.changes > 100, "too little happened to say anything: {self}");
    }

    /// There and nowhere else.
    pub(crate) fn must_be_bad_at(&self, mount: usize) {
        assert!(!self.faults.is_empty(), "nothing was found: {self}");
        assert!(self.faults.iter().all(|fault| fault.mount() == mount), "on another mount, too");
        assert!(self.faults.iter().any(|fault| matches!(fault, Fault::Stale { .. })));
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reads, readings, changes, hot, caches_apart, faults } = self;
        write!(f, "{reads} reads, which saw {readings} things, {hot} of them within 10 ms of a change elsewhere; ")?;
        write!(f, "{changes} changes; {} faults; caches of one mount apart {caches_apart} times", faults.len())
    }
}

/// The first faults, each with the changes around it.
fn tell(faults: &[Fault], changes: &[Change]) {
    for fault in faults.iter().take(TOLD) {
        eprintln!("{fault}");
        let mut near: Vec<_> = changes.iter().filter(|change| fault.thing() == Some(change.thing)).collect();
        near.sort_by_key(|change| change.ended);
        let at = near.partition_point(|change| change.ended < fault.began());
        for change in &near[at.saturating_sub(4)..near.len().min(at + 4)] {
            eprintln!("    {change:?}");
        }
    }
}
