//! The service of blocks: keeps them durably for uploads, gives them to mounts of the volumes that name them.

use std::{sync::Arc, time::Duration};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tonic::{Request, Response, Status};

use super::{listener::Caller, running::Running, stage::Stage};
use crate::{
    limits,
    namespace::{State, Volume},
    storage::StorageError,
    types::{Access, Grant, Principal, VolumeId},
    wire::{
        Put, Upload, WireError, hash_from_bytes,
        proto::{self, block_server::Block},
    },
};

/// How long an upload waits until this node has applied the opening of its session.
const SESSION_WAIT: Duration = Duration::from_secs(1);

/// Answers from the node's packs.
pub(super) struct BlockService {
    pub(super) stage: Arc<Stage>,
    pub(super) metrics: BlockMetrics,
}

#[derive(Clone, Default)]
pub(super) struct BlockMetrics {
    put_bytes: Counter,
    get_bytes: Counter,
    missing: Counter,
}

impl BlockMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("block_put_bytes", "Bytes of blocks that were sent to this store", self.put_bytes.clone());
        registry.register("block_get_bytes", "Bytes of blocks that this store gave", self.get_bytes.clone());
        registry.register("block_misses", "Blocks that were asked for and are not here", self.missing.clone());
    }
}

#[tonic::async_trait]
impl Block for BlockService {
    async fn put(&self, request: Request<proto::PutRequest>) -> Result<Response<proto::PutResponse>, Status> {
        let caller = Caller::of(&request)?;
        let running = self.stage.running()?;
        let put = Put::try_from(request.into_inner()).map_err(invalid)?;
        may_write(&caller.principal, put.pin.volume, &running)?;
        admit_pin(put.pin, &running).await?;
        let bytes = put.content.len() as u64;
        leave_reserved(put.pin.volume, bytes, &running)?;
        let pin = (put.pin.volume, put.pin.session, put.pin.upload);
        let packs = running.packs().clone();
        let stored = tokio::task::spawn_blocking(move || packs.put(vec![(put.hash, put.content)], Some(pin)));
        stored.await.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
            StorageError::WrongHash { .. } | StorageError::BlockSize { .. } => {
                Status::invalid_argument(error.to_string())
            }
            StorageError::Full { .. } => Status::resource_exhausted(error.to_string()),
            other => Status::unavailable(other.to_string()),
        })?;
        self.metrics.put_bytes.inc_by(bytes);
        Ok(Response::new(proto::PutResponse { node: running.node().0 }))
    }

    /// A mount is given what its volume names or has uploaded (`Packs::is_named`), and told of other blocks what it is told
    /// of those that do not exist.
    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let caller = Caller::of(&request)?;
        let running = self.stage.running()?;
        may_read(&caller.principal, &running)?;
        let hash = hash_from_bytes("GetRequest", &request.into_inner().hash).map_err(invalid)?;
        let is_allowed = match &*caller.principal {
            Principal::Mount(grant) => running.packs().is_named(grant.volume, &hash),
            // Stores fill their gaps from each other.
            _ => true,
        };
        let packs = running.packs().clone();
        let found = match is_allowed {
            true => tokio::task::spawn_blocking(move || packs.get(&hash))
                .await
                .map_err(|error| Status::internal(error.to_string()))?,
            false => Ok(None),
        };
        match found {
            Ok(Some(content)) => {
                self.metrics.get_bytes.inc_by(content.len() as u64);
                Ok(Response::new(proto::GetResponse { content }))
            }
            Ok(None) => {
                self.metrics.missing.inc();
                Err(Status::not_found(format!("node {} does not have block {hash}", running.node())))
            }
            Err(error) => {
                // README.md "Integrity": never served, counted by the store; the asker goes to another store.
                tracing::error!("a block cannot be read: {error}");
                Err(Status::unavailable(error.to_string()))
            }
        }
    }
}

fn may_write(principal: &Principal, volume: VolumeId, running: &Running) -> Result<(), Status> {
    match principal {
        Principal::Storage(_) | Principal::Admin => {
            Err(Status::permission_denied("only a credential for a volume stores blocks"))
        }
        Principal::Mount(grant) if grant.founding != running.founding() => Err(stranger(grant, running)),
        Principal::Mount(grant) if grant.access == Access::ReadOnly => {
            Err(Status::permission_denied(format!("the credential for volume {} is read-only", grant.name)))
        }
        Principal::Mount(grant) if grant.volume != volume => {
            Err(Status::permission_denied(format!("the credential is for volume {} alone", grant.name)))
        }
        Principal::Mount(_) => Ok(()),
    }
}

/// That the session is there which the pin is for: one for nothing would never be lifted. A session that ends meanwhile
/// takes it along, at the latest when ended ones are looked for (`Storage::lift_ended_pins`).
async fn admit_pin(Upload { volume, session, .. }: Upload, running: &Running) -> Result<(), Status> {
    let is_known = |state: &State| state.volume(volume).is_some_and(|volume| volume.has_opened(session));
    // A follower may not have applied yet what the leader has answered.
    if !running.wait_for_state(SESSION_WAIT, is_known).await {
        return Err(Status::unavailable(format!(
            "this node knows no session {session} of volume {volume}, or not yet; ask again"
        )));
    }
    if running.state().volume(volume).is_none_or(|volume| volume.session(session).is_none()) {
        return Err(Status::failed_precondition(format!("session {session} of volume {volume} has ended")));
    }
    bound_pins(running.packs().pin_counts(volume, session))
}

/// What other volumes have reserved stays free. Of its own a volume may use all: whose it is the leader knows.
fn leave_reserved(volume: VolumeId, bytes: u64, running: &Running) -> Result<(), Status> {
    let state = running.state();
    let own = state.volume(volume).map_or(0, Volume::reserved_bytes);
    let others = state.reserved_bytes().saturating_sub(own);
    if others == 0 {
        return Ok(());
    }
    let free = running.packs().free_for_uploads().map_err(|error| Status::unavailable(error.to_string()))?;
    check_left(free, bytes, others)
}

fn check_left(free: u64, bytes: u64, others: u64) -> Result<(), Status> {
    if free >= bytes.saturating_add(others) {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "{free} bytes are free, {others} of them reserved for files of other volumes"
    )))
}

/// That there is a place for one more pin, of the session's own and of all. Uploads that are under way at this moment may go
/// beyond it by as many as there are.
fn bound_pins((own, all): (usize, usize)) -> Result<(), Status> {
    let (own_max, all_max) = (limits::PINS_PER_SESSION_MAX, limits::PINS_MAX);
    // Not as a full disk is told: the session's next operations lift them.
    if own >= own_max {
        return Err(Status::unavailable(format!(
            "this session has uploaded {own} blocks that no file names, {own_max} is the most; ask again"
        )));
    }
    if all >= all_max && own >= limits::PINS_PER_SESSION_KEPT {
        return Err(Status::unavailable(format!(
            "{all} uploaded blocks wait until a file names them, {all_max} is the most; ask again"
        )));
    }
    Ok(())
}

fn may_read(principal: &Principal, running: &Running) -> Result<(), Status> {
    match principal {
        Principal::Mount(grant) if grant.founding != running.founding() => Err(stranger(grant, running)),
        Principal::Storage(Some(member)) if member.founding == running.founding() => Ok(()),
        Principal::Mount(_) => Ok(()),
        Principal::Storage(_) | Principal::Admin => {
            Err(Status::permission_denied("blocks are given to mounts and to storage nodes of this founding alone"))
        }
    }
}

fn stranger(grant: &Grant, running: &Running) -> Status {
    Status::permission_denied(format!(
        "this node is of founding {}, the credential is for founding {}",
        running.founding(),
        grant.founding
    ))
}

fn invalid(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_bounded_by_session_and_over_all() {
        let code = |own, all| bound_pins((own, all)).map_err(|status| status.code());
        let (own, all) = (limits::PINS_PER_SESSION_MAX, limits::PINS_MAX);
        let kept = limits::PINS_PER_SESSION_KEPT;
        assert_eq!(code(own - 1, all - 1), Ok(()));
        assert_eq!(code(own, own), Err(tonic::Code::Unavailable));
        assert_eq!(code(kept, all), Err(tonic::Code::Unavailable));
        assert_eq!(code(kept - 1, 2 * all), Ok(()), "others' pins stop nobody");
    }

    #[test]
    fn what_other_volumes_have_reserved_stays_free() {
        let code = |free, bytes, others| check_left(free, bytes, others).map_err(|status| status.code());
        assert_eq!(code(100, 40, 60), Ok(()));
        assert_eq!(code(100, 41, 60), Err(tonic::Code::ResourceExhausted));
        assert_eq!(code(100, 1, u64::MAX), Err(tonic::Code::ResourceExhausted));
    }
}
