//! The service of peers: takes in the streams that other storage nodes open.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{listener::Caller, running::Running, stage::Stage};
use crate::{
    node::{Input, PeerHello},
    types::{Member, Principal},
    wire::{
        peer::PeerFrame,
        proto::{self, peer_server::Peer},
    },
};

pub(super) struct PeerService {
    pub(super) stage: Arc<Stage>,
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn send(&self, request: Request<Streaming<proto::PeerMessage>>) -> Result<Response<proto::PeerEnd>, Status> {
        let caller = Caller::of(&request)?;
        let Principal::Storage(certified) = *caller.principal else {
            return Err(Status::permission_denied("only storage nodes speak on this port; mounts use port 7440"));
        };
        let mut stream = request.into_inner();
        let hello = match next(&mut stream).await? {
            Some((PeerFrame::Hello(hello), _)) => hello,
            _ => return Err(Status::invalid_argument("the first message of a peer stream must be its hello")),
        };
        let running = self.greet(&hello, certified).await?;
        debug!("node {} at {} opened its stream", hello.from, caller.address);
        while let Some((frame, bytes)) = next(&mut stream).await? {
            let PeerFrame::Message(message) = frame else {
                return Err(Status::invalid_argument("a peer stream has one hello"));
            };
            let input = Input::Peer { from: hello.from, message };
            running.give(input, bytes).await.map_err(|stopped| Status::unavailable(stopped.to_string()))?;
        }
        Ok(Response::new(proto::PeerEnd {}))
    }
}

impl PeerService {
    /// The node that the sender means, which begins if it was only prepared: its peer has begun already.
    async fn greet(&self, hello: &PeerHello, certified: Option<Member>) -> Result<Running, Status> {
        let me =
            self.stage.member().ok_or_else(|| Status::unavailable("this node is blank and waits to be founded"))?;
        hello.check(certified, me).map_err(|error| Status::failed_precondition(error.to_string()))?;
        self.stage.begin(hello.founding).map_err(|error| Status::unavailable(error.to_string()))?;
        self.stage.wait_until_running().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

async fn next(stream: &mut Streaming<proto::PeerMessage>) -> Result<Option<(PeerFrame, usize)>, Status> {
    let Some(message) = stream.message().await? else { return Ok(None) };
    let bytes = message.encoded_len();
    let frame = PeerFrame::try_from(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Some((frame, bytes)))
}
