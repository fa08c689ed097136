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

/// Every row of a state is of a level that is in force.
#[test]
fn all_that_there_is_has_a_level_that_this_program_knows() {
    let levels: Vec<u16> = LEVELS.iter().map(|(level, _)| *level).collect();
    assert!(levels.is_sorted() && levels.first() == Some(&1), "{levels:?}");
    assert_eq!(Command::Noop.level(), 1);
}
