//! The namespace against a reference model: random lists of commands must have the same outcomes, trees, attributes,
//! contents and xattrs, and the same digests on every replica.

pub(crate) mod cluster;
pub(crate) mod reference;
mod scenarios;
pub(crate) mod steps;

use self::cluster::Cluster;
use manyfs::namespace::{State, Volume};
use proptest::{collection::vec, prelude::*, test_runner::Config};

/// So many cases, or as many as `PROPTEST_CASES` says for a long run.
fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    // A shrunk failure becomes a test with a name instead of a file.
    Config { cases, failure_persistence: None, max_shrink_iters: 4096, ..Config::default() }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn namespace_does_what_the_model_does(
        steps in vec(steps::step(), 1..70),
        bytes in prop::option::weighted(0.3, 0..9000_u64),
        inodes in prop::option::weighted(0.3, 1..20_u64),
        is_fresh in prop::bool::weighted(0.2),
    ) {
        let mut cluster = Cluster::new((bytes, inodes));
        let beginnings = if is_fresh { Vec::new() } else { steps::beginnings() };
        for step in beginnings.iter().chain(&steps) {
            cluster.take(step);
        }
        cluster.check_thoroughly();
    }
}

/// What a damaged store may do to its rows.
#[derive(Clone, Debug)]
enum Damage {
    Flip { row: usize, at: usize, bits: u8 },
    FlipKey { row: usize, at: usize, bits: u8 },
    Cut { row: usize, length: usize },
    Drop { row: usize },
    Swap { row: usize, with: usize },
    Copy { row: usize, from: usize },
    Garbage { row: usize, value: Vec<u8> },
}

fn damage() -> impl Strategy<Value = Damage> {
    let (row, at) = (any::<usize>, any::<usize>);
    prop_oneof![
        4 => (row(), at(), 1..=255_u8).prop_map(|(row, at, bits)| Damage::Flip { row, at, bits }),
        2 => (row(), at(), 1..=255_u8).prop_map(|(row, at, bits)| Damage::FlipKey { row, at, bits }),
        1 => (row(), any::<usize>()).prop_map(|(row, length)| Damage::Cut { row, length }),
        1 => row().prop_map(|row| Damage::Drop { row }),
        1 => (row(), row()).prop_map(|(row, with)| Damage::Swap { row, with }),
        1 => (row(), row()).prop_map(|(row, from)| Damage::Copy { row, from }),
        2 => (row(), vec(any::<u8>(), 0..40)).prop_map(|(row, value)| Damage::Garbage { row, value }),
    ]
}

impl Damage {
    fn inflict(self, rows: &mut Vec<(bytes::Bytes, bytes::Bytes)>) {
        let flip = |bytes: &bytes::Bytes, at: usize, bits: u8| {
            let mut bytes = bytes.to_vec();
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] ^= bits;
            }
            bytes.into()
        };
        let count = rows.len();
        if count == 0 {
            return;
        }
        match self {
            Self::Flip { row, at, bits } => rows[row % count].1 = flip(&rows[row % count].1, at, bits),
            Self::FlipKey { row, at, bits } => rows[row % count].0 = flip(&rows[row % count].0, at, bits),
            Self::Cut { row, length } => {
                let value = &mut rows[row % count].1;
                value.truncate(length % (value.len() + 1));
            }
            Self::Drop { row } => drop(rows.remove(row % count)),
            Self::Swap { row, with } => rows.swap(row % count, with % count),
            Self::Copy { row, from } => rows[row % count].1 = rows[from % count].1.clone(),
            Self::Garbage { row, value } => {
                let version = rows[row % count].1.first().copied();
                rows[row % count].1 = version.into_iter().chain(value).collect::<Vec<u8>>().into();
            }
        }
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn damaged_rows_are_refused_or_read_back_as_they_are(
        steps in vec(steps::step(), 20..60),
        damages in vec(vec(damage(), 1..3), 40),
        later in vec(steps::step(), 10),
    ) {
        let mut cluster = Cluster::new((None, None));
        for step in steps::beginnings().iter().chain(&steps) {
            cluster.take(step);
        }
        let whole = cluster.rows();
        for damage in damages {
            let mut rows = whole.clone();
            damage.into_iter().for_each(|damage| damage.inflict(&mut rows));
            // The volume alone, as a mount gets it, and the whole state, as a node reads it.
            drop(Volume::from_rows(rows.iter().skip(1).cloned()));
            if let Ok(mut state) = State::from_rows(rows.clone()) {
                prop_assert_eq!(state.rows().collect::<Vec<_>>(), rows);
                // Damage that makes sense (another mode, say) is still a state that goes on working.
                let mut blocks = reference::Blocks::new();
                for step in &later {
                    if let Some(operation) = step.operation(&cluster.model, &mut blocks) {
                        cluster::apply_to(&mut state, operation);
                    }
                }
                prop_assert!(State::from_rows(state.rows()).is_ok());
            }
        }
    }
}
