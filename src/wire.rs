//! The only conversions to and from protobuf. `proto/*.proto` is the wire's manual; this module turns its messages
//! into the types that cores speak, and refuses what makes no sense instead of passing it on.
//!
//! Towards the wire a conversion cannot fail (`From`); from the wire it can (`TryFrom`, `WireError`), and never panics,
//! whatever the bytes are. Payloads (blocks, entries, rows, raft messages) are `Bytes` that share the receive buffer.
//! Sizes are bounded by the decode limit of the transports (`limits::MESSAGE_BYTES_MAX`).

pub mod admin;
pub mod client;
pub mod peer;
#[cfg(test)]
pub(crate) mod strategies;

use bytes::Bytes;

use crate::{
    message::mount::ProtocolRange,
    namespace::{DecodeError, NodeInfo},
    types::{BlockHash, ClusterId, FoundingId, FoundingNumber, LogIndex, MountId, NodeId, SessionId, VolumeId},
};

/// The generated messages and services.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("manyfs.v1");
}

/// Why a message of the wire is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a message {message} without {field} was received; the other end speaks another protocol")]
    Missing { message: &'static str, field: &'static str },
    #[error("{field} of a message {message} must be {expected}, received was {found}")]
    Value { message: &'static str, field: &'static str, expected: &'static str, found: String },
    #[error("the operation in a message cannot be read: {0}")]
    Operation(#[from] DecodeError),
}

/// `found` where a message has the field, else what is wrong.
fn required<T>(message: &'static str, field: &'static str, found: Option<T>) -> Result<T, WireError> {
    found.ok_or(WireError::Missing { message, field })
}

fn wide_to_bytes(value: u128) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn wide_from_bytes(message: &'static str, field: &'static str, bytes: &[u8]) -> Result<u128, WireError> {
    let digits = bytes.try_into().map_err(|_| WireError::Value {
        message,
        field,
        expected: "16 bytes",
        found: format!("{} bytes", bytes.len()),
    })?;
    Ok(u128::from_be_bytes(digits))
}

fn cluster_from(message: &'static str, bytes: &[u8]) -> Result<ClusterId, WireError> {
    wide_from_bytes(message, "cluster", bytes).map(ClusterId)
}

/// Cluster and number, one behind the other.
#[must_use]
pub fn founding_to_bytes(founding: FoundingId) -> Bytes {
    [founding.cluster.0, founding.number.0].map(u128::to_be_bytes).concat().into()
}

/// What `founding_to_bytes` wrote.
///
/// # Errors
/// `Value` where it is not 32 bytes.
pub fn founding_from(message: &'static str, bytes: &[u8]) -> Result<FoundingId, WireError> {
    let halves = bytes.split_first_chunk::<16>().and_then(|(cluster, number)| Some((cluster, number.try_into().ok()?)));
    let Some((cluster, number)) = halves else {
        let found = format!("{} bytes", bytes.len());
        return Err(WireError::Value { message, field: "founding", expected: "32 bytes", found });
    };
    Ok(FoundingId {
        cluster: ClusterId(u128::from_be_bytes(*cluster)),
        number: FoundingNumber(u128::from_be_bytes(number)),
    })
}

fn mount_from(message: &'static str, bytes: &[u8]) -> Result<MountId, WireError> {
    wide_from_bytes(message, "mount", bytes).map(MountId)
}

/// The bytes of a block's name.
#[must_use]
pub fn hash_to_bytes(hash: BlockHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

/// The block's name that `bytes` are.
///
/// # Errors
/// `Value` where they are not 32.
pub fn hash_from_bytes(message: &'static str, bytes: &[u8]) -> Result<BlockHash, WireError> {
    let hash = bytes.try_into().map_err(|_| WireError::Value {
        message,
        field: "hash",
        expected: "32 bytes",
        found: format!("{} bytes", bytes.len()),
    })?;
    Ok(BlockHash(hash))
}

/// A number that must fit in 16 bits.
fn short_from(message: &'static str, field: &'static str, value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::Value {
        message,
        field,
        expected: "at most 65535",
        found: value.to_string(),
    })
}

fn protocol_from(message: &'static str, min: u32, max: u32) -> Result<ProtocolRange, WireError> {
    let range = ProtocolRange {
        min: short_from(message, "protocol_min", min)?,
        max: short_from(message, "protocol_max", max)?,
    };
    if range.min == 0 || range.min > range.max {
        return Err(WireError::Value {
            message,
            field: "protocol_min",
            expected: "at least 1 and at most protocol_max",
            found: format!("{min} to {max}"),
        });
    }
    Ok(range)
}

fn indexes_from(indexes: Vec<u64>) -> Vec<LogIndex> {
    indexes.into_iter().map(LogIndex).collect()
}

fn rows_to(rows: Vec<(Bytes, Bytes)>) -> Vec<proto::Row> {
    rows.into_iter().map(|(key, value)| proto::Row { key, value }).collect()
}

fn rows_from(rows: Vec<proto::Row>) -> Vec<(Bytes, Bytes)> {
    rows.into_iter().map(|row| (row.key, row.value)).collect()
}

/// A feature level; there is none below 1.
fn level_from(message: &'static str, level: u32) -> Result<u16, WireError> {
    let known = u16::try_from(level).ok().filter(|level| *level > 0);
    let expected = "a feature level from 1 to 65535";
    known.ok_or_else(|| WireError::Value { message, field: "level_max", expected, found: level.to_string() })
}

/// A node's identity: 0 names none.
fn node_from(message: &'static str, field: &'static str, id: u64) -> Result<NodeId, WireError> {
    if id == 0 {
        return Err(WireError::Value { message, field, expected: "a node, counted from 1", found: "0".to_owned() });
    }
    Ok(NodeId(id))
}

impl From<NodeInfo> for proto::NodeInfo {
    fn from(info: NodeInfo) -> Self {
        Self {
            id: info.id.0,
            peer_address: info.peer_address,
            client_address: info.client_address,
            level_max: info.level_max.into(),
        }
    }
}

impl TryFrom<proto::NodeInfo> for NodeInfo {
    type Error = WireError;

    fn try_from(info: proto::NodeInfo) -> Result<Self, WireError> {
        Ok(Self {
            id: node_from("NodeInfo", "id", info.id)?,
            peer_address: info.peer_address,
            client_address: info.client_address,
            level_max: level_from("NodeInfo", info.level_max)?,
        })
    }
}

/// The pin of an uploaded block, as `PutRequest` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upload {
    pub volume: VolumeId,
    pub session: SessionId,
    pub upload: crate::types::UploadId,
}

/// A block on its way to a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    pub hash: BlockHash,
    pub content: Bytes,
    pub pin: Upload,
}

impl From<Put> for proto::PutRequest {
    fn from(put: Put) -> Self {
        Self {
            hash: hash_to_bytes(put.hash),
            content: put.content,
            volume: put.pin.volume.0,
            session: put.pin.session.0,
            upload: put.pin.upload.0,
        }
    }
}

impl TryFrom<proto::PutRequest> for Put {
    type Error = WireError;

    fn try_from(request: proto::PutRequest) -> Result<Self, WireError> {
        let length = request.content.len();
        if length == 0 || length > crate::limits::BLOCK_BYTES_MAX {
            return Err(WireError::Value {
                message: "PutRequest",
                field: "content",
                expected: "1 byte to 1 MiB",
                found: format!("{length} bytes"),
            });
        }
        Ok(Self {
            hash: hash_from_bytes("PutRequest", &request.hash)?,
            content: request.content,
            pin: Upload {
                volume: VolumeId(request.volume),
                session: SessionId(request.session),
                upload: crate::types::UploadId(request.upload),
            },
        })
    }
}
