//! How storage nodes greet each other: the first message of each stream, and why it may be refused.

use crate::{
    limits::{PROTOCOL_MAX, PROTOCOL_MIN},
    message::mount::ProtocolRange,
    types::{FoundingId, Member, NodeId},
};

/// Who sends on a stream, and whom it takes the receiver for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHello {
    pub founding: FoundingId,
    pub from: NodeId,
    pub to: NodeId,
    pub protocol: ProtocolRange,
}

/// Why a stream is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    #[error("this node is of founding {own}, the sender of founding {other}: they have nothing to do with each other")]
    Founding { own: FoundingId, other: FoundingId },
    #[error("the sender says that it is node {said}, and its certificate does not: it was issued to {}", holder(*.certified))]
    Certificate { said: NodeId, certified: Option<Member> },
    #[error("this is node {me}, and node {from} asked for node {to}; an address in the cluster is wrong")]
    Node { me: NodeId, from: NodeId, to: NodeId },
    #[error(
        "this node speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the sender {} to {}; upgrade the older one",
        .found.min, .found.max
    )]
    Protocol { found: ProtocolRange },
}

impl PeerHello {
    /// Whether the node `me` takes the stream; `certified` is what the sender's certificate says. The founding is compared
    /// before all else (docs/protocol.md R67-foundings).
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, certified: Option<Member>, me: Member) -> Result<(), HelloError> {
        let Self { founding, from, to, protocol } = *self;
        if founding != me.founding {
            return Err(HelloError::Founding { own: me.founding, other: founding });
        }
        if certified != Some(Member { founding, node: from }) {
            return Err(HelloError::Certificate { said: from, certified });
        }
        if to != me.node || from == me.node {
            return Err(HelloError::Node { me: me.node, from, to });
        }
        if protocol.min > PROTOCOL_MAX || protocol.max < PROTOCOL_MIN {
            return Err(HelloError::Protocol { found: protocol });
        }
        Ok(())
    }
}

fn holder(certified: Option<Member>) -> String {
    match certified {
        Some(Member { founding, node }) => format!("node {node} of founding {founding}"),
        None => "a blank node".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, FoundingNumber};

    const OWN: FoundingId = FoundingId { cluster: ClusterId(1), number: FoundingNumber(2) };
    const OTHER: FoundingId = FoundingId { cluster: ClusterId(1), number: FoundingNumber(3) };

    fn member(founding: FoundingId, node: u64) -> Member {
        Member { founding, node: NodeId(node) }
    }

    #[test]
    fn only_a_node_of_this_founding_that_proves_its_number_is_heard() {
        let me = member(OWN, 1);
        let hello = |founding, from, to| PeerHello {
            founding,
            from: NodeId(from),
            to: NodeId(to),
            protocol: ProtocolRange { min: PROTOCOL_MIN, max: PROTOCOL_MAX },
        };
        assert_eq!(hello(OWN, 2, 1).check(Some(member(OWN, 2)), me), Ok(()));
        for (sent, certified) in [
            // A second founding with the same authority, whatever its certificate says.
            (hello(OTHER, 2, 1), Some(member(OTHER, 2))),
            (hello(OTHER, 2, 1), Some(member(OWN, 2))),
            // A certificate of another node, of a blank one, of another founding.
            (hello(OWN, 2, 1), Some(member(OWN, 3))),
            (hello(OWN, 2, 1), None),
            (hello(OWN, 2, 1), Some(member(OTHER, 2))),
            // For somebody else, and from this node itself.
            (hello(OWN, 2, 3), Some(member(OWN, 2))),
            (hello(OWN, 1, 1), Some(member(OWN, 1))),
        ] {
            assert!(sent.check(certified, me).is_err(), "{sent:?} with {certified:?}");
        }
        let newer = ProtocolRange { min: PROTOCOL_MAX + 1, max: PROTOCOL_MAX + 1 };
        let newer = PeerHello { protocol: newer, ..hello(OWN, 2, 1) };
        assert!(matches!(newer.check(Some(member(OWN, 2)), me), Err(HelloError::Protocol { .. })));
    }
}
