//! Feature levels rise when every node and every session can, and not before.

use super::*;

const CLUSTER: VolumeId = VolumeId(0);

impl Node {
    fn raise(&mut self, level: u16) -> Result<Reply, Errno> {
        self.apply(CLUSTER, (SessionId(0), Sequence(0)), Command::RaiseFeatureLevel(level)).outcome
    }

    fn program_of(&mut self, id: u64, level_max: u16) {
        let command = Command::SetNode(NodeInfo { level_max, ..node_info(id) });
        assert_eq!(self.apply(CLUSTER, (SessionId(0), Sequence(0)), command).outcome, Ok(Reply::Done));
    }

    fn opens(&mut self, mount: u128, level_max: u16) -> SessionId {
        let open = Command::OpenSession { mount: MountId(mount), credential: Default::default(), level_max };
        self.main(open).session.expect("a session")
    }
}

/// An old node would skip what it does not understand, and an old mount would answer without it.
#[test]
fn the_level_rises_only_when_every_node_and_every_session_can() {
    let mut node = Node::new();
    let nodes: Vec<u64> = node.state.nodes().map(|node| node.id.0).collect();
    let old = node.opens(7, 1);
    let new = node.opens(8, 2);
    assert_eq!(node.raise(2), Err(Errno::EOPNOTSUPP), "nodes are old");
    nodes.iter().for_each(|id| node.program_of(*id, 2));
    assert_eq!(node.raise(2), Err(Errno::EOPNOTSUPP), "a session is old");
    assert_eq!(node.state.feature_level(), 1);
    node.starts_again();
    node.main(Command::CloseSessions { sessions: vec![old] });
    assert_eq!(node.state.level_max(), 2);
    assert_eq!(node.raise(3), Err(Errno::EOPNOTSUPP));
    assert_eq!(node.raise(2), Ok(Reply::Done));
    assert_eq!(node.raise(1), Err(Errno::EINVAL), "it never falls");
    assert_eq!(node.state.feature_level(), 2);
    assert_eq!(node.opens(8, 2), new, "the session that it has");
    node.starts_again();
}

/// A mount that comes back with an older program is an older session.
#[test]
fn a_session_is_as_old_as_the_program_that_opened_it_last() {
    let mut node = Node::new();
    let nodes: Vec<u64> = node.state.nodes().map(|node| node.id.0).collect();
    nodes.iter().for_each(|id| node.program_of(*id, 2));
    node.opens(7, 2);
    assert_eq!(node.state.level_max(), 2);
    node.opens(7, 1);
    assert_eq!(node.state.level_max(), 1);
    node.starts_again();
}

/// What a higher level brought cannot be there before the raise: such rows are damaged, or of another state.
#[test]
fn rows_above_the_level_in_force_are_no_state() {
    let levels: Vec<u16> = LEVELS.iter().map(|(level, _)| *level).collect();
    assert!(levels.is_sorted() && levels.first() == Some(&1), "{levels:?}");
    assert_eq!(Command::Noop.level(), 1);
    // Of a cluster that is below the first level, all rows are above it.
    let founding = Founding {
        id: FoundingId::default(),
        nodes: vec![NodeInfo { level_max: 0, ..node_info(1) }],
        stamp: Stamp(1),
        main: VolumeOptions::default(),
    };
    let refused = State::from_rows(State::found(&founding).rows()).expect_err("above the level");
    assert!(refused.to_string().contains("feature level 1"), "{refused}");
}
