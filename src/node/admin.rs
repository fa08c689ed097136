//! What administrators ask for, until it is answered: by its outcome, or by the end of patience.

use std::collections::BTreeMap;

use super::{AdminAnswer, AdminError, AdminRequest, Node, Output};
use crate::{
    coordinator, limits,
    namespace::{Command, Reply, Volume},
    types::{Errno, Instant, NodeId, VolumeId},
};

/// What became of a leadership that was to be handed over and was not.
const NOT_TAKEN_OVER: &str = "no other node took leadership over: is one reachable and caught up?";

/// Mounts that a refusal names.
const MOUNTS_NAMED_MAX: usize = 8;

/// Requests that wait, by the shell's ticket.
#[derive(Debug, Default)]
pub(super) struct Admin {
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    what: What,
    until: Instant,
}

#[derive(Debug)]
enum What {
    /// A command about the volume of this name.
    Volume {
        name: String,
    },
    Transfer,
}

impl Admin {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }
}

impl Node {
    pub(super) fn administer(&mut self, ticket: u64, request: AdminRequest) {
        let (name, volume, command) = match request {
            AdminRequest::Status => {
                let status = Box::new(self.status());
                return self.answer(ticket, Ok(AdminAnswer::Status(status)));
            }
            AdminRequest::TransferLeader { to } => return self.transfer_leader(ticket, to),
            AdminRequest::CreateVolume { name, options } => {
                (name.clone(), Some(VolumeId(0)), Command::CreateVolume { name, options })
            }
            AdminRequest::DeleteVolume { name, force } => {
                (name.clone(), Some(VolumeId(0)), Command::DeleteVolume { name, force })
            }
            // The entry goes to the volume's mounts: it names the volume, which another of its name would not be.
            AdminRequest::SetQuotas { name, changes } => {
                let named = self.state.volume_named(&name).map(Volume::id);
                (name, named, Command::SetQuotas(changes))
            }
        };
        if name.len() > limits::VOLUME_NAME_BYTES_MAX {
            let (found, max) = (name.len(), limits::VOLUME_NAME_BYTES_MAX);
            let reason = format!("the name of a volume has at most {max} bytes, this one has {found}");
            return self.answer(ticket, Err(AdminError::Refused(reason)));
        }
        if !self.leading {
            let leader = self.leader_address();
            return self.answer(ticket, Err(AdminError::NotLeader { leader }));
        }
        let Some(volume) = volume else { return self.answer(ticket, Err(no_volume(&name))) };
        let until = self.now.after(self.config.timing.write_timeout);
        self.admin.waiting.insert(ticket, Waiting { what: What::Volume { name }, until });
        self.tell_coordinator(coordinator::Input::Command { ticket: Some(ticket), volume, command });
    }

    fn transfer_leader(&mut self, ticket: u64, to: Option<NodeId>) {
        if !self.leading {
            let leader = self.leader_address();
            return self.answer(ticket, Err(AdminError::NotLeader { leader }));
        }
        if to == Some(self.config.id) {
            return self.answer(ticket, Ok(AdminAnswer::Done));
        }
        let peers = self.replica.status().peers;
        let eligible = |id: NodeId| peers.iter().any(|peer| peer.voter && peer.id == id && peer.id != self.config.id);
        match to {
            Some(id) if !eligible(id) => {
                let reason = format!("node {id} is no voter of this cluster: `manyfs cluster status` lists them");
                self.answer(ticket, Err(AdminError::Refused(reason)));
            }
            None if !peers.iter().any(|peer| eligible(peer.id)) => {
                let reason = "this node is the only voter: there is nobody to hand leadership to".to_owned();
                self.answer(ticket, Err(AdminError::Refused(reason)));
            }
            _ => {
                let until = self.now.after(4 * self.config.timing.lease);
                self.admin.waiting.insert(ticket, Waiting { what: What::Transfer, until });
                self.hand_over(to);
            }
        }
    }

    pub(super) fn command_carried(&mut self, ticket: u64, outcome: Result<Reply, Errno>) {
        let Some(Waiting { what: What::Volume { name }, .. }) = self.admin.waiting.remove(&ticket) else { return };
        let result = match outcome {
            Ok(_) => Ok(AdminAnswer::Done),
            Err(Errno::EEXIST) => Err(AdminError::Refused(format!("a volume {name:?} exists"))),
            Err(Errno::ENOENT | Errno::ENODEV) => Err(no_volume(&name)),
            Err(Errno::EBUSY) => Err(AdminError::Refused(self.in_use(&name))),
            Err(Errno::EINVAL) => Err(AdminError::Refused(format!("{name:?} cannot be the name of a volume"))),
            Err(errno) => Err(AdminError::Refused(format!("volume {name:?}: {errno}"))),
        };
        self.answer(ticket, result);
    }

    /// Why a volume is not deleted: its mounts.
    fn in_use(&self, name: &str) -> String {
        let volume = self.state.volume_named(name).map(Volume::id);
        let sessions =
            self.coordinator.sessions(self.now, &self.state).filter(|session| Some(session.volume) == volume);
        let (mut places, mut count, mut gone) = (Vec::new(), 0, 0);
        for session in sessions {
            count += 1;
            gone += usize::from(!session.connected);
            places.extend(session.place.map(|place| format!("{}:{}", place.host, place.path)));
        }
        let mounts = if count == 1 { "1 mount".to_owned() } else { format!("{count} mounts") };
        let more = places.len().saturating_sub(MOUNTS_NAMED_MAX);
        places.truncate(MOUNTS_NAMED_MAX);
        if more > 0 {
            places.push(format!("{more} more"));
        }
        let at = if places.is_empty() { String::new() } else { format!(" ({})", places.join(", ")) };
        let gone = match gone {
            0 => String::new(),
            gone => format!(
                "; {gone} of them not connected, which {} s after it was last heard of is forgotten",
                self.config.timing.session.as_secs()
            ),
        };
        format!(
            "volume {name} is in use by {mounts}{at}{gone}: unmount it there, or give --force, after which it answers ESTALE \
             there; nothing was changed"
        )
    }

    /// Leadership was lost with the command under way: it may still take effect.
    pub(super) fn command_lost(&mut self, ticket: u64) {
        if self.admin.waiting.remove(&ticket).is_some() {
            self.answer(ticket, Err(AdminError::TimedOut));
        }
    }

    /// Whoever leads now, leadership has been handed over, or the attempt has failed.
    pub(super) fn leadership_of_admin(&mut self) {
        let Some(leader) = self.leader else { return };
        let transfers: Vec<u64> = self
            .admin
            .waiting
            .iter()
            .filter(|(_, waiting)| matches!(waiting.what, What::Transfer))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in transfers {
            self.admin.waiting.remove(&ticket);
            let result = if leader == self.config.id {
                Err(AdminError::Refused(NOT_TAKEN_OVER.to_owned()))
            } else {
                Ok(AdminAnswer::Done)
            };
            self.answer(ticket, result);
        }
    }

    pub(super) fn expire_admin(&mut self) {
        let now = self.now;
        let expired: Vec<u64> =
            self.admin.waiting.iter().filter(|(_, waiting)| waiting.until <= now).map(|(ticket, _)| *ticket).collect();
        for ticket in expired {
            let error = match self.admin.waiting.remove(&ticket).map(|waiting| waiting.what) {
                Some(What::Transfer) => AdminError::Refused(NOT_TAKEN_OVER.to_owned()),
                _ => AdminError::TimedOut,
            };
            self.answer(ticket, Err(error));
        }
    }

    fn answer(&mut self, ticket: u64, answer: Result<AdminAnswer, AdminError>) {
        self.outputs.push_back(Output::Admin { ticket, answer });
    }

    /// Where mounts and administrators find the leader, if one is known and it is not this node.
    fn leader_address(&self) -> Option<String> {
        let leader = self.leader.filter(|leader| *leader != self.config.id)?;
        self.state.node(leader).map(|node| node.client_address.clone())
    }
}

fn no_volume(name: &str) -> AdminError {
    AdminError::Refused(format!("there is no volume {name:?}"))
}
