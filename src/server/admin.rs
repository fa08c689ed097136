//! The service of administrators.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    listener::Caller,
    neighbours::Neighbours,
    papers::Papers,
    running::Running,
    stage::{FoundingError, Stage},
};
use crate::{
    namespace::{VolumeOptions, entry::Founding},
    node::{AdminAnswer, AdminError, AdminRequest},
    pki::check_volume_name,
    types::{Member, NodeId, Principal},
    wire::{
        admin::{Phase, Process, Report, change_response},
        founding_from,
        proto::{self, admin_server::Admin},
    },
};

pub(super) struct AdminService {
    pub(super) stage: Arc<Stage>,
    pub(super) process: Process,
    pub(super) papers: Arc<Papers>,
    pub(super) neighbours: Neighbours,
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, request: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        // Blank nodes ask each other.
        if !matches!(*Caller::of(&request)?.principal, Principal::Storage(_)) {
            admit(&request)?;
        }
        let mut process = self.process.clone();
        let phase = match self.stage.running_if_begun().await.map_err(refuse)? {
            Some(running) => {
                process.lacks_descriptors = running.packs().lacks_descriptors();
                process.damages = running.packs().damages();
                process.scrubbed_ms = running.scrubber().since_last_pass().map(|since| since.as_millis() as u64);
                Phase::Running(Box::new(status_of(&running).await?))
            }
            None => self.stage.phase(),
        };
        let report = Report { cluster: self.stage.cluster(), phase, process };
        Ok(Response::new(report.into()))
    }

    async fn prepare(
        &self,
        request: Request<proto::PrepareRequest>,
    ) -> Result<Response<proto::PrepareResponse>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let (node, only_ask) = (NodeId(request.node), request.only_ask);
        let founding = request.founding.ok_or_else(|| Status::invalid_argument("a founding is missing"))?;
        let founding = Founding::try_from(founding).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let member = Member { founding: founding.id, node };
        if self.stage.can_prepare(node, &founding).map_err(refuse)? {
            self.neighbours.admit(node, &founding).await.map_err(refuse)?;
        }
        if only_ask {
            return Ok(Response::new(proto::PrepareResponse {}));
        }
        let stage = self.stage.clone();
        let prepared = tokio::task::spawn_blocking(move || stage.prepare(node, founding)).await;
        prepared.map_err(|error| Status::internal(error.to_string()))?.map_err(refuse)?;
        // Its peers must be able to see who it is before it takes part.
        self.papers.name(member).map_err(|error| Status::internal(error.to_string()))?;
        tracing::info!("prepared as node {node}; the node takes part once all founding nodes are prepared");
        Ok(Response::new(proto::PrepareResponse {}))
    }

    async fn begin(&self, request: Request<proto::BeginRequest>) -> Result<Response<proto::BeginResponse>, Status> {
        admit(&request)?;
        let founding = founding_from("BeginRequest", &request.into_inner().founding)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.stage.begin(founding).map_err(refuse)?;
        self.stage.wait_until_running().await.map_err(refuse)?;
        Ok(Response::new(proto::BeginResponse {}))
    }

    async fn scrub(&self, request: Request<proto::ScrubRequest>) -> Result<Response<proto::ScrubResponse>, Status> {
        admit(&request)?;
        self.stage.running()?.scrubber().begin();
        Ok(Response::new(proto::ScrubResponse {}))
    }

    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::ChangeResponse>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        check_volume_name(&request.name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let options = match request.options {
            Some(options) => options
                .try_into()
                .map_err(|error: crate::wire::WireError| Status::invalid_argument(error.to_string()))?,
            None => VolumeOptions::default(),
        };
        self.change(&request.founding, AdminRequest::CreateVolume { name: request.name, options }).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::ChangeResponse>, Status> {
        admit(&request)?;
        let proto::DeleteVolumeRequest { name, force, founding } = request.into_inner();
        self.change(&founding, AdminRequest::DeleteVolume { name, force }).await
    }

    async fn set_quotas(
        &self,
        request: Request<proto::SetQuotasRequest>,
    ) -> Result<Response<proto::ChangeResponse>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let changes = (&request)
            .try_into()
            .map_err(|error: crate::wire::WireError| Status::invalid_argument(error.to_string()))?;
        self.change(&request.founding, AdminRequest::SetQuotas { name: request.name, changes }).await
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::ChangeResponse>, Status> {
        admit(&request)?;
        let proto::TransferLeaderRequest { to, founding } = request.into_inner();
        self.change(&founding, AdminRequest::TransferLeader { to: to.map(NodeId) }).await
    }
}

impl AdminService {
    /// Asks the node for a change of the founding that is meant, which must be its own.
    async fn change(&self, founding: &[u8], request: AdminRequest) -> Result<Response<proto::ChangeResponse>, Status> {
        let running = self.stage.running()?;
        let meant =
            founding_from("ChangeRequest", founding).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if meant != running.founding() {
            return Err(Status::failed_precondition(format!(
                "this node is of founding {}, the change is for founding {meant}; nothing was changed",
                running.founding()
            )));
        }
        Ok(Response::new(change_response(running.ask(request).await)))
    }
}

async fn status_of(running: &Running) -> Result<crate::node::NodeStatus, Status> {
    match running.ask(AdminRequest::Status).await {
        Ok(AdminAnswer::Status(status)) => Ok(*status),
        Ok(AdminAnswer::Done) => Err(Status::internal("the node answered a question for its status with 'done'")),
        Err(AdminError::Refused(sentence)) => Err(Status::unavailable(sentence)),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    match &*Caller::of(request)?.principal {
        Principal::Admin => Ok(()),
        Principal::Storage(_) => {
            Err(Status::permission_denied("a storage node administers nothing; use the cluster's authority file"))
        }
        Principal::Mount(_) => Err(Status::permission_denied(
            "a credential for a volume administers nothing; use the cluster's authority file",
        )),
    }
}

fn refuse(error: FoundingError) -> Status {
    let sentence = error.to_string();
    match error {
        FoundingError::Senseless(_) => Status::invalid_argument(sentence),
        FoundingError::Busy | FoundingError::Stopping => Status::unavailable(sentence),
        _ => Status::failed_precondition(sentence),
    }
}
