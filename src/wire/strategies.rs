//! Arbitrary messages for the tests of `wire`.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};

use super::{
    admin::{Phase, Process, Report},
    peer::PeerFrame,
};
use crate::{
    message::{
        mount::{Hello, MountPlace, ProtocolRange, Refusal, StoreAddress, ToLeader, ToMount, Welcome},
        peer::{Greeting, Life, Mark, Measured, PeerMessage, Recollection, Verdict},
    },
    namespace::{
        AllocateMode, Flush, NewNode, NodeInfo, Operation, RenameMode, Reply, VolumeOptions, XattrMode, entry::Founding,
    },
    node::{ClockStatus, NodeStatus, PeerHello, PeerStatus, SessionStatus, VolumeStatus},
    replica::Standing,
    types::{
        AttributeChanges, BlockHash, ClearSuid, ClusterId, Errno, FoundingId, FoundingNumber, Generation, Ino, Label,
        LockClaim, LockFamily, LockHolder, LockKind, LockRange, LogIndex, MountId, Name, NodeId, Piece, Sequence,
        SessionId, Space, Stamp, Term, TimeChange, Timestamp, UploadId, VolumeId, XattrName,
    },
};

/// Bytes that nobody encoded.
pub(super) fn garbage() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

/// What happens to an encoded message on a bad way: some bytes changed, the end lost.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    flips: Vec<(prop::sample::Index, u8)>,
    keep: prop::sample::Index,
}

impl Damage {
    pub(crate) fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return bytes;
        }
        for (at, flip) in &self.flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(1 + self.keep.index(bytes.len()));
        bytes
    }
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    (vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<prop::sample::Index>())
        .prop_map(|(flips, keep)| Damage { flips, keep })
}

pub(crate) fn to_leader() -> impl Strategy<Value = ToLeader> {
    prop_oneof![
        hello().prop_map(ToLeader::Hello),
        (sequence(), vec(sequence(), 0..4), operation())
            .prop_map(|(sequence, answered, operation)| ToLeader::Operation { sequence, answered, operation }),
        (vec(index(), 0..4), vec(ino(), 0..4))
            .prop_map(|(entries, referenced)| ToLeader::Acknowledge { entries, referenced }),
        vec(ino(), 0..4).prop_map(|orphans| ToLeader::Released { orphans }),
        any::<u64>().prop_map(|number| ToLeader::Renew { number }),
        Just(ToLeader::Leave),
        Just(ToLeader::PieceReceived),
        ino().prop_map(|ino| ToLeader::Recall { ino }),
        any::<u64>().prop_map(|number| ToLeader::ReadIndex { number }),
    ]
}

pub(super) fn to_mount() -> impl Strategy<Value = ToMount> {
    let refusal = prop_oneof![
        Just(Refusal::Permanent),
        Just(Refusal::SessionExpired),
        Just(Refusal::Busy),
        Just(Refusal::Protocol)
    ];
    let outcome = prop_oneof![reply().prop_map(Ok), (1..=u16::MAX).prop_map(|number| Err(Errno(number))),];
    prop_oneof![
        welcome().prop_map(ToMount::Welcome),
        option::of(".{0,20}").prop_map(|leader| ToMount::NotLeader { leader }),
        (refusal, ".{0,20}").prop_map(|(refusal, reason)| ToMount::Refused { refusal, reason }),
        (index(), any::<bool>(), any::<bool>(), rows())
            .prop_map(|(index, first, last, rows)| { ToMount::SnapshotPiece { index, first, last, rows } }),
        vec((index(), bytes()), 0..4).prop_map(|entries| ToMount::Entries { entries }),
        (ino(), index()).prop_map(|(ino, grant)| ToMount::Recall { ino, grant }),
        (sequence(), index(), outcome).prop_map(|(sequence, index, outcome)| ToMount::Answer {
            sequence,
            index,
            outcome
        }),
        (any::<u64>(), stamp(), space(), stores()).prop_map(|(number, stamp, space, stores)| ToMount::Lease {
            number,
            stamp,
            space,
            stores
        }),
        (any::<u64>(), index()).prop_map(|(number, index)| ToMount::ReadIndex { number, index }),
        any::<String>().prop_map(|leader| ToMount::Prepare { leader }),
    ]
}

pub(super) fn peer_frame() -> impl Strategy<Value = PeerFrame> {
    let message = prop_oneof![
        bytes().prop_map(PeerMessage::Raft),
        (term(), any::<u64>(), option::of(stamp()), vec(mark(), 0..3), vec(node(), 0..3))
            .prop_map(|(term, round, stamp, marks, alive)| PeerMessage::Heartbeat { term, round, stamp, marks, alive }),
        (life(), term(), index(), recollection(), option::of(node_info())).prop_map(
            |(life, term, last, recollection, node)| PeerMessage::Hello {
                hello: crate::message::peer::Hello { life, term, last, recollection },
                node
            }
        ),
        (life(), life(), verdict()).prop_map(|(life, by, verdict)| PeerMessage::Greeting(Greeting {
            life,
            by,
            verdict
        })),
        (term(), any::<u64>(), option::of(any::<u64>()))
            .prop_map(|(term, round, wall_clock)| PeerMessage::HeartbeatAcknowledged { term, round, wall_clock }),
        (index(), bytes()).prop_map(|(index, after)| PeerMessage::SnapshotRequest { index, after }),
        (option::of(node_info()), option::of((space(), any::<u64>())), any::<u64>()).prop_map(
            |(node, measured, content_bytes)| {
                let measured = measured.map(|(space, content)| Measured { space, content });
                PeerMessage::Report { node, measured, content_bytes }
            }
        ),
        (term(), vec((any::<u32>().prop_map(VolumeId), any::<u64>().prop_map(SessionId)), 0..4))
            .prop_map(|(term, leased)| PeerMessage::HandOver { term, leased }),
        (index(), term(), bytes(), rows(), any::<bool>()).prop_map(|(index, term, membership, rows, last)| {
            PeerMessage::SnapshotPiece { index, term, membership, rows, last }
        }),
    ];
    let hello = (founding_id(), node(), node(), protocol())
        .prop_map(|(founding, from, to, protocol)| PeerFrame::Hello(PeerHello { founding, from, to, protocol }));
    prop_oneof![hello, message.prop_map(PeerFrame::Message)]
}

fn life() -> impl Strategy<Value = Life> {
    (any::<u64>(), any::<u64>()).prop_map(|(boot, nonce)| Life { boot, nonce })
}

fn mark() -> impl Strategy<Value = Mark> {
    (node(), life(), term(), (term(), index())).prop_map(|(node, life, term, acknowledged)| Mark {
        node,
        life,
        term,
        acknowledged,
    })
}

fn recollection() -> impl Strategy<Value = Recollection> {
    prop_oneof![Just(Recollection::Whole), Just(Recollection::Lost), Just(Recollection::Refilled)]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Welcome),
        Just(Verdict::Rival),
        any::<u64>().prop_map(|boot| Verdict::Forgetful { boot }),
        (index(), term()).prop_map(|(through, term)| Verdict::Refill { through, term }),
    ]
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![Just(Standing::TakesPart), Just(Standing::Waits), Just(Standing::Rival), Just(Standing::Forgetful)]
}

pub(super) fn report() -> impl Strategy<Value = Report> {
    let phase = prop_oneof![
        Just(Phase::Blank),
        (node(), founding()).prop_map(|(node, founding)| Phase::Prepared { node, founding }),
        node_status().prop_map(|status| Phase::Running(Box::new(status))),
    ];
    let disk = (option::of(any::<u64>()), any::<u64>());
    let process = (any::<u32>(), ".{0,20}", vec(".{0,8}", 0..4), ".{0,8}", ".{0,8}", any::<bool>(), disk).prop_map(
        |(pid, data, start, version, peer_address, lacks_descriptors, (scrubbed_ms, damages))| Process {
            pid,
            data,
            start,
            version,
            peer_address,
            lacks_descriptors,
            scrubbed_ms,
            damages,
        },
    );
    (any::<u128>(), phase, process).prop_map(|(cluster, phase, process)| Report {
        cluster: ClusterId(cluster),
        phase,
        process,
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    let numbers = (any::<u64>(), any::<u128>(), option::of(session()), any::<u64>(), index());
    (protocol(), numbers, vec(ino(), 0..4), mount_place(), 1..=u16::MAX).prop_map(
        |(protocol, (features, mount, session, generation, applied), orphans, place, level_max)| Hello {
            protocol,
            features,
            level_max,
            mount: MountId(mount),
            session,
            generation: Generation(generation),
            applied,
            orphans,
            place,
        },
    )
}

fn mount_place() -> impl Strategy<Value = MountPlace> {
    let label = || any::<String>().prop_map(|text| Label::new(&text));
    (label(), label(), any::<bool>()).prop_map(|(host, path, read_only)| MountPlace { host, path, read_only })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    (any::<u16>(), any::<u64>(), any::<u32>(), session(), index(), stamp(), stores(), any::<u32>(), space()).prop_map(
        |(protocol, features, volume, session, caught_up_at, stamp, stores, inline_bytes_max, space)| Welcome {
            protocol,
            features,
            volume: VolumeId(volume),
            session,
            caught_up_at,
            stamp,
            stores,
            inline_bytes_max,
            space,
        },
    )
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        Just(Reply::Done),
        ino().prop_map(|ino| Reply::Made { ino }),
        (any::<u64>(), any::<u64>()).prop_map(|(offset, size)| Reply::Written { offset, size }),
        any::<u64>().prop_map(|length| Reply::Copied { length }),
        Just(Reply::Locked),
        Just(Reply::Queued),
        Just(Reply::Unfinished),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let node = prop_oneof![
        Just(NewNode::File),
        Just(NewNode::Directory),
        bytes().prop_map(|target| NewNode::Symlink { target }),
        Just(NewNode::Fifo),
        Just(NewNode::Socket),
        any::<u32>().prop_map(|rdev| NewNode::CharDevice { rdev }),
        any::<u32>().prop_map(|rdev| NewNode::BlockDevice { rdev }),
    ];
    let rename = one_of(vec![RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
    let xattr = one_of(vec![XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    let allocate = one_of(vec![
        AllocateMode::Extend,
        AllocateMode::KeepSize,
        AllocateMode::Punch,
        AllocateMode::Zero { keep_size: true },
        AllocateMode::Zero { keep_size: false },
        AllocateMode::Collapse,
        AllocateMode::Insert,
    ]);
    prop_oneof![
        (ino(), name(), node, any::<(u16, u16, u32, u32)>(), any::<bool>()).prop_map(
            |(parent, name, node, (mode, umask, uid, gid), delegate)| {
                Operation::Make { parent, name, node, mode, uid, gid, delegate, umask }
            }
        ),
        (ino(), any::<(u16, u16, u32, u32)>())
            .prop_map(|(parent, (mode, umask, uid, gid))| { Operation::MakeUnnamed { parent, mode, uid, gid, umask } }),
        (ino(), ino(), name()).prop_map(|(ino, parent, name)| Operation::Link { ino, parent, name }),
        (ino(), ino(), name()).prop_map(|(ino, parent, name)| Operation::LinkUnnamed { ino, parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Operation::Unlink { parent, name }),
        (ino(), name()).prop_map(|(parent, name)| Operation::Rmdir { parent, name }),
        (ino(), name(), ino(), name(), rename).prop_map(|(from, from_name, to, to_name, mode)| {
            Operation::Rename { from, from_name, to, to_name, mode }
        }),
        (ino(), changes()).prop_map(|(ino, changes)| Operation::SetAttributes { ino, changes }),
        (
            ino(),
            vec(piece(), 0..4),
            any::<bool>(),
            option::of(timestamp()),
            clear_suid(),
            vec(any::<u64>(), 0..3),
            option::of(index())
        )
            .prop_map(|(ino, pieces, append, mtime, clear_suid, uploads, fence)| Operation::Write {
                ino,
                pieces,
                append,
                mtime,
                clear_suid,
                uploads: uploads.into_iter().map(UploadId).collect(),
                fence,
            }),
        (ino(), allocate, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(ino, mode, offset, length, at_most)| {
            Operation::Allocate { ino, mode, offset, length, at_most }
        }),
        (ino(), xattr_name(), bytes(), xattr, any::<bool>()).prop_map(|(ino, name, value, mode, clear_sgid)| {
            Operation::SetXattr { ino, name, value, mode, clear_sgid }
        }),
        (ino(), xattr_name()).prop_map(|(ino, name)| Operation::RemoveXattr { ino, name }),
        (ino(), any::<u64>(), ino(), any::<u64>(), any::<u64>()).prop_map(
            |(from, from_offset, to, to_offset, length)| {
                Operation::CopyRange { from, from_offset, to, to_offset, length }
            }
        ),
        (ino(), any::<u64>(), piece()).prop_map(|(ino, data_version, piece)| Operation::Coalesce {
            ino,
            data_version,
            piece
        }),
        ino().prop_map(|ino| Operation::Delegate { ino }),
        flush().prop_map(|flush| Operation::Flush(Box::new(flush))),
        (ino(), claim(), any::<bool>()).prop_map(|(ino, claim, waits)| Operation::Lock { ino, claim, waits }),
        (ino(), claim()).prop_map(|(ino, LockClaim { family, owner, range, .. })| Operation::Unlock {
            ino,
            family,
            owner,
            range
        }),
        (ino(), sequence(), claim(), any::<bool>()).prop_map(|(ino, call, claim, undo)| Operation::CancelLock {
            ino,
            call,
            claim,
            undo
        }),
        (ino(), any::<u64>(), any::<bool>()).prop_map(|(ino, number, is_owner)| Operation::ReleaseLocks {
            ino,
            holder: if is_owner { LockHolder::Owner(number) } else { LockHolder::Handle(number) },
        }),
    ]
}

fn flush() -> impl Strategy<Value = Flush> {
    (
        (ino(), index(), option::of(any::<u64>()), vec(piece(), 0..4), any::<u64>()),
        (option::of(timestamp()), option::of(timestamp()), changes(), vec(any::<u64>(), 0..3), any::<bool>()),
        option::of(index()),
    )
        .prop_map(
            |((ino, grant, cut, pieces, size_min), (written_at, changed_at, changes, uploads, give_back), fence)| {
                Flush {
                    ino,
                    grant,
                    cut,
                    pieces,
                    size_min,
                    written_at,
                    changed_at,
                    changes,
                    uploads: uploads.into_iter().map(UploadId).collect(),
                    give_back,
                    fence,
                }
            },
        )
}

fn claim() -> impl Strategy<Value = LockClaim> {
    let family = one_of(vec![LockFamily::Flock, LockFamily::Fcntl, LockFamily::Open]);
    let kind = one_of(vec![LockKind::Shared, LockKind::Exclusive]);
    (family, any::<u64>(), kind, any::<(u64, u64)>(), any::<u32>(), any::<u64>()).prop_map(
        |(family, owner, kind, (first, last), pid, fh)| LockClaim {
            family,
            owner,
            kind,
            range: LockRange { first, last },
            pid,
            fh,
        },
    )
}

fn changes() -> impl Strategy<Value = AttributeChanges> {
    let time = || option::of(prop_oneof![Just(TimeChange::Now), timestamp().prop_map(TimeChange::To)]);
    (
        option::of(any::<u16>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u64>()),
        time(),
        time(),
        clear_suid(),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime, clear_suid)| AttributeChanges {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            clear_suid,
        })
}

fn clear_suid() -> impl Strategy<Value = ClearSuid> {
    prop_oneof![2 => Just(ClearSuid::No), 1 => Just(ClearSuid::ByMember), 1 => Just(ClearSuid::ByStranger)]
}

fn piece() -> impl Strategy<Value = Piece> {
    (any::<u64>(), any::<u64>(), option::of(any::<[u8; 32]>()), option::of(bytes()))
        .prop_map(|(offset, length, block, content)| Piece { offset, length, block: block.map(BlockHash), content })
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let peer = (node_info(), any::<bool>(), option::of(index()), option::of(any::<bool>()))
        .prop_map(|(node, voter, matched, reachable)| PeerStatus { node, voter, matched, reachable });
    let quota = || option::of(any::<u64>());
    let volume = (any::<u32>(), ".{0,12}", any::<u64>(), any::<u64>(), quota(), any::<u64>(), any::<u128>()).prop_map(
        |(id, name, inodes, bytes, quota_bytes, quota_inodes, digest)| VolumeStatus {
            id: VolumeId(id),
            name,
            inodes,
            bytes,
            quota_bytes,
            quota_inodes,
            digest,
        },
    );
    let counts = (any::<u64>(), any::<u64>());
    let session = (session(), any::<u32>(), any::<bool>(), any::<bool>(), counts, option::of(mount_place())).prop_map(
        |(session, volume, connected, in_roster, (unacknowledged, age_ms), place)| SessionStatus {
            session,
            volume: VolumeId(volume),
            connected,
            in_roster,
            unacknowledged,
            age_ms,
            place,
        },
    );
    (
        (founding_id(), node()),
        option::of(node()),
        term(),
        (index(), index()),
        any::<u128>(),
        vec(peer, 0..4),
        vec(volume, 0..3),
        vec(session, 0..3),
        (any::<bool>(), (any::<u64>(), option::of(any::<i64>())), standing()),
        (option::of(space()), option::of(any::<u64>())),
    )
        .prop_map(
            |(
                (founding, id),
                leader,
                term,
                (applied, committed),
                digest,
                peers,
                volumes,
                sessions,
                (short, (jumps, ahead_ms), standing),
                (space, leaderless_ms),
            )| {
                NodeStatus {
                    founding,
                    id,
                    leader,
                    term,
                    applied,
                    committed,
                    digest,
                    peers,
                    volumes,
                    sessions,
                    short_of_space: short,
                    clock: ClockStatus { jumps, ahead_ms },
                    standing,
                    space,
                    leaderless_ms,
                }
            },
        )
}

fn founding_id() -> impl Strategy<Value = FoundingId> {
    any::<(u128, u128)>()
        .prop_map(|(cluster, number)| FoundingId { cluster: ClusterId(cluster), number: FoundingNumber(number) })
}

fn founding() -> impl Strategy<Value = Founding> {
    let quota = || option::of(any::<u64>());
    let options = (any::<u32>(), any::<u32>(), 0u16..=0o7777, quota(), any::<u64>()).prop_map(
        |(uid, gid, mode, quota_bytes, quota_inodes)| VolumeOptions { uid, gid, mode, quota_bytes, quota_inodes },
    );
    (founding_id(), vec(node_info(), 0..4), stamp(), options).prop_map(|(id, nodes, stamp, main)| Founding {
        id,
        nodes,
        stamp,
        main,
    })
}

fn node_info() -> impl Strategy<Value = NodeInfo> {
    (node(), ".{0,12}", ".{0,12}", 1..=u16::MAX).prop_map(|(id, peer_address, client_address, level_max)| NodeInfo {
        id,
        peer_address,
        client_address,
        level_max,
    })
}

fn protocol() -> impl Strategy<Value = ProtocolRange> {
    (1..=u16::MAX).prop_flat_map(|min| (Just(min), min..=u16::MAX)).prop_map(|(min, max)| ProtocolRange { min, max })
}

fn stores() -> impl Strategy<Value = Vec<StoreAddress>> {
    vec((node(), ".{0,12}").prop_map(|(node, address)| StoreAddress { node, address }), 0..4)
}

fn space() -> impl Strategy<Value = Space> {
    (any::<u64>(), any::<u64>()).prop_map(|(total, available)| Space { total, available })
}

fn rows() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    vec((bytes(), bytes()), 0..4)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn name() -> impl Strategy<Value = Name> {
    vec(any::<u8>(), 1..20).prop_filter_map("not every byte string is a name", |bytes| Name::new(&bytes).ok())
}

fn xattr_name() -> impl Strategy<Value = XattrName> {
    vec(1..=u8::MAX, 1..20).prop_filter_map("not every byte string is a name", |bytes| XattrName::new(&bytes).ok())
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn one_of<T: Clone + Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = T> {
    prop::sample::select(values)
}

fn index() -> impl Strategy<Value = LogIndex> {
    any::<u64>().prop_map(LogIndex)
}

fn term() -> impl Strategy<Value = Term> {
    any::<u64>().prop_map(Term)
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<u64>().prop_map(Stamp)
}

fn ino() -> impl Strategy<Value = Ino> {
    any::<u64>().prop_map(Ino)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<u64>().prop_map(SessionId)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..=u64::MAX).prop_map(NodeId)
}

fn sequence() -> impl Strategy<Value = Sequence> {
    (1..=u64::MAX).prop_map(Sequence)
}
