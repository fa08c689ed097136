//! The whole state of a storage node: the cluster part, and one part per volume.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use imbl::OrdMap;

use super::{
    Applied, Command, Effects, Entry, NodeInfo, Reply, RowChange, Volume, VolumeOptions,
    entry::Founding,
    row::{ClusterKey, ClusterRow, Place, RowError, decode_value, encode_value, hex, row_digest},
    volume::Loader,
};
use crate::{
    limits,
    types::{BlockHash, Errno, FoundingId, LogIndex, NodeId, Stamp, VolumeId},
};

/// The volume that founding a cluster makes.
const MAIN: &str = "main";

/// What a cluster agrees on, as a value: a clone is cheap and stays as it was. The default is the state of no cluster.
#[derive(Clone, Default)]
pub struct State {
    header: ClusterRow,
    nodes: OrdMap<NodeId, NodeInfo>,
    volumes: OrdMap<VolumeId, Volume>,
    /// Volumes that are gone for everybody and whose rows are not yet.
    deleted: OrdMap<VolumeId, Volume>,
    /// Of the cluster part's own rows.
    digest: u128,
    /// The last entry of any part, and its stamp.
    applied: LogIndex,
    last_stamp: Stamp,
}

impl State {
    /// The state at log index 1, the same on every founding node.
    #[must_use]
    pub fn found(founding: &Founding) -> Self {
        let header = ClusterRow {
            founding: founding.id,
            feature_level: founding.nodes.iter().map(|node| node.level_max).min().unwrap_or(limits::FEATURE_LEVEL),
            next_volume: 1,
            applied: LogIndex(1),
            stamp: founding.stamp,
        };
        let nodes = founding.nodes.iter().map(|node| (node.id, node.clone())).collect();
        let mut state = Self { header, nodes, applied: LogIndex(1), last_stamp: founding.stamp, ..Self::default() };
        state.add_volume(MAIN.to_owned(), founding.main);
        state.digest =
            state.cluster_rows().fold(0, |sum: u128, (key, value)| sum.wrapping_add(row_digest(&key, &value)));
        state
    }

    /// Carries the entry out: on the cluster part where it names volume 0, else on that volume. Total; an entry of a
    /// volume that does not exist (any more) is refused with ENODEV.
    pub fn apply(&mut self, index: LogIndex, entry: &Entry) -> Applied {
        self.applied = self.applied.max(index);
        self.last_stamp = entry.header.stamp;
        if let Some(volume) = self.volumes.get_mut(&entry.header.volume) {
            return volume.apply(index, entry);
        }
        let before = (self.header, self.nodes.clone());
        let mut effects = Effects::default();
        let outcome = match (entry.header.volume, &entry.command) {
            (VolumeId(0), command) => self.change_cluster(index, command, &mut effects),
            (id, Command::ShrinkVolume) => match self.deleted.remove(&id) {
                Some(volume) => Ok(self.shrink(index, volume, &mut effects)),
                None => Err(Errno::ENODEV),
            },
            _ => Err(Errno::ENODEV),
        };
        self.header.applied = index;
        self.header.stamp = entry.header.stamp;
        self.note_cluster_rows(&before, &mut effects);
        Applied { outcome, session: None, repeated: false, effects }
    }

    /// The same on every replica at every index, also on one that was made from rows.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let volumes = self.volumes.values().chain(self.deleted.values());
        volumes.fold(self.digest, |digest, volume| digest.wrapping_add(volume.digest()))
    }

    /// All rows in key order: the cluster part's, then each volume's by id.
    pub fn rows(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        self.cluster_rows().chain(self.with_rows(VolumeId(0)).flat_map(Volume::rows))
    }

    /// The rows whose keys are larger than `key`, which need not be the key of a row.
    pub fn rows_after<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = (Bytes, Bytes)> + use<'a> {
        let key = Bytes::copy_from_slice(key);
        let first = match Place::of(&key) {
            Place::Cluster => VolumeId(0),
            Place::Before(volume) | Place::Volume { volume, .. } => volume,
            Place::End => VolumeId(u32::MAX),
        };
        let volumes = self.with_rows(first);
        let behind = key.clone();
        self.cluster_rows()
            .filter(move |(row, _)| *row > key)
            .chain(volumes.flat_map(move |volume| volume.rows_after(&behind)))
    }

    /// All volumes that have rows, from this one on, in the order of their ids.
    fn with_rows(&self, first: VolumeId) -> impl Iterator<Item = &Volume> + use<'_> {
        let mut deleted = self.deleted.range(first..).map(|(_, volume)| volume).peekable();
        let mut living = self.volumes.range(first..).map(|(_, volume)| volume).peekable();
        std::iter::from_fn(move || match (living.peek(), deleted.peek()) {
            (Some(next), Some(other)) if other.id() < next.id() => deleted.next(),
            (Some(_), _) => living.next(),
            (None, _) => deleted.next(),
        })
    }

    /// The state that `rows` listed.
    ///
    /// # Errors
    /// As `Volume::from_rows`; never panics, whatever the bytes are.
    pub fn from_rows(rows: impl IntoIterator<Item = (Bytes, Bytes)>) -> Result<Self, RowError> {
        let mut state = Self::default();
        let (mut header, mut level) = (None, 0);
        let mut last_key: Option<Bytes> = None;
        let mut loading: Option<(VolumeId, Loader)> = None;
        for (key, value) in rows {
            if last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(RowError::Order { key: hex(&key) });
            }
            if let Place::Volume { volume, .. } = Place::of(&key) {
                if loading.as_ref().is_some_and(|(id, _)| *id != volume)
                    && let Some((_, loader)) = loading.take()
                {
                    level = level.max(loader.level());
                    state.take_volume(loader)?;
                }
                loading.get_or_insert_with(|| (volume, Loader::default())).1.add(&key, &value)?;
            } else {
                match ClusterKey::decode(&key).ok_or_else(|| RowError::Key { key: hex(&key) })? {
                    ClusterKey::Header => header = Some(decode_value(&key, &value)?),
                    ClusterKey::Node(id) => {
                        let node: NodeInfo = decode_value(&key, &value)?;
                        if node.id != id {
                            return Err(RowError::Contradiction(format!("node {} has the row of node {id}", node.id)));
                        }
                        state.nodes.insert(id, node);
                    }
                }
                state.digest = state.digest.wrapping_add(row_digest(&key, &value));
            }
            last_key = Some(key);
        }
        if let Some((_, loader)) = loading {
            level = level.max(loader.level());
            state.take_volume(loader)?;
        }
        state.header = header.ok_or(RowError::Missing { what: "the cluster" })?;
        if level > state.header.feature_level {
            let known = state.header.feature_level;
            return Err(RowError::Contradiction(format!(
                "a row is of feature level {level}, the cluster uses {known}"
            )));
        }
        state.check_volumes()?;
        (state.applied, state.last_stamp) = (state.header.applied, state.header.stamp);
        let volumes = state.volumes.values().chain(state.deleted.values());
        for volume in volumes.filter(|volume| volume.applied() > LogIndex(0)) {
            (state.applied, state.last_stamp) =
                (state.applied, state.last_stamp).max((volume.applied(), volume.last_stamp()));
        }
        Ok(state)
    }

    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.volumes.get(&id)
    }

    /// Whether the volume was ever made; it may be gone.
    #[must_use]
    pub const fn has_made(&self, id: VolumeId) -> bool {
        id.0 < self.header.next_volume
    }

    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.volumes.values().find(|volume| volume.name() == name)
    }

    /// In the order of their ids.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> + '_ {
        self.volumes.values()
    }

    /// Volumes that were deleted and of which `ShrinkVolume` has yet to take rows away.
    pub fn deleted_volumes(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.deleted.keys().copied()
    }

    /// In the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> + '_ {
        self.nodes.values()
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    #[must_use]
    pub const fn founding(&self) -> FoundingId {
        self.header.founding
    }

    /// Entries up to this level may be used.
    #[must_use]
    pub const fn feature_level(&self) -> u16 {
        self.header.feature_level
    }

    /// The newest level that all nodes and sessions understand.
    #[must_use]
    pub fn level_max(&self) -> u16 {
        let nodes = self.nodes.values().map(|node| node.level_max);
        let sessions = self.volumes.values().flat_map(Volume::sessions).map(|(_, session)| session.level_max);
        nodes.chain(sessions).min().unwrap_or(limits::FEATURE_LEVEL)
    }

    /// The last entry that was applied, of whatever part. After `from_rows` it is the last one that changed a row: of
    /// entries that no part had (raft's own) the state knows nothing.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The stamp of the last entry.
    #[must_use]
    pub const fn last_stamp(&self) -> Stamp {
        self.last_stamp
    }

    /// How many extents name each block, over all volumes. Walks all files.
    #[must_use]
    pub fn references(&self) -> BTreeMap<BlockHash, u64> {
        let mut references = BTreeMap::new();
        for (_, block) in self.names() {
            *references.entry(block).or_default() += 1;
        }
        references
    }

    /// Which volume names which block, once for each extent that does. Walks all files.
    pub fn names(&self) -> impl Iterator<Item = (VolumeId, BlockHash)> + '_ {
        self.with_rows(VolumeId(0)).flat_map(|volume| {
            let blocks = volume.all_extents().filter_map(|extent| extent.block);
            blocks.map(|block| (volume.id(), block))
        })
    }

    /// Bytes that all volumes have reserved for content to come.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.with_rows(VolumeId(0)).map(Volume::reserved_bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of all volumes' content, as their quotas count it.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let content = |volume: &Volume| volume.bytes_used() - volume.reserved_bytes();
        self.with_rows(VolumeId(0)).map(content).fold(0, u64::saturating_add)
    }

    fn change_cluster(&mut self, index: LogIndex, command: &Command, effects: &mut Effects) -> Result<Reply, Errno> {
        match command {
            Command::Noop => {}
            Command::SetNode(node) => {
                if node.id == NodeId(0) {
                    return Err(Errno::EINVAL);
                }
                self.nodes.insert(node.id, node.clone());
            }
            Command::RemoveNode(id) => {
                self.nodes.remove(id).ok_or(Errno::ENOENT)?;
            }
            Command::CreateVolume { name, options } => self.create_volume(name, *options, effects)?,
            Command::DeleteVolume { name, force } => {
                let volume = self.volume_named(name).ok_or(Errno::ENOENT)?;
                if !force && volume.sessions().next().is_some() {
                    return Err(Errno::EBUSY);
                }
                let id = volume.id();
                let volume = self.volumes.remove(&id).ok_or(Errno::ENOENT)?;
                return Ok(self.shrink(index, volume, effects));
            }
            Command::RaiseFeatureLevel(level) if *level < self.header.feature_level => return Err(Errno::EINVAL),
            Command::RaiseFeatureLevel(level) if *level > self.level_max() => return Err(Errno::EOPNOTSUPP),
            Command::RaiseFeatureLevel(level) => self.header.feature_level = *level,
            Command::OpenSession { .. }
            | Command::CloseSessions { .. }
            | Command::ReapOrphans { .. }
            | Command::EndHolds { .. }
            | Command::ShrinkVolume
            | Command::SetQuotas(_)
            | Command::Operation(_) => return Err(Errno::EINVAL),
        }
        Ok(Reply::Done)
    }

    fn create_volume(&mut self, name: &str, options: VolumeOptions, effects: &mut Effects) -> Result<(), Errno> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > limits::VOLUME_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return Err(Errno::EINVAL);
        }
        if self.volume_named(name).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.volumes.len() + self.deleted.len() >= limits::VOLUMES_MAX || self.header.next_volume == u32::MAX {
            return Err(Errno::ENOSPC);
        }
        let volume = self.add_volume(name.to_owned(), options);
        effects.rows.extend(volume.rows().map(|(key, value)| RowChange { key, value: Some(value) }));
        Ok(())
    }

    /// Takes the next rows of a volume that is deleted; with the last of them it is gone.
    fn shrink(&mut self, index: LogIndex, mut volume: Volume, effects: &mut Effects) -> Reply {
        // Nobody is told what goes: the volume has no mounts any more.
        *effects = Effects { changes: Vec::new(), ..volume.shrink(index, self.last_stamp) };
        if volume.is_bare() {
            let own: Vec<Bytes> = volume.rows().map(|(key, _)| key).collect();
            effects.rows.retain(|row| !own.contains(&row.key));
            effects.rows.extend(own.into_iter().map(|key| RowChange { key, value: None }));
        } else {
            self.deleted.insert(volume.id(), volume);
        }
        Reply::Done
    }

    fn add_volume(&mut self, name: String, options: VolumeOptions) -> Volume {
        let id = VolumeId(self.header.next_volume);
        self.header.next_volume += 1;
        let volume = Volume::new(id, name, options, self.last_stamp);
        self.volumes.insert(id, volume.clone());
        volume
    }

    fn take_volume(&mut self, loader: Loader) -> Result<(), RowError> {
        let volume = loader.finish()?;
        let volumes = if volume.is_deleted() { &mut self.deleted } else { &mut self.volumes };
        volumes.insert(volume.id(), volume);
        Ok(())
    }

    fn check_volumes(&self) -> Result<(), RowError> {
        let mut names = BTreeMap::new();
        for volume in self.with_rows(VolumeId(0)) {
            if volume.id().0 == 0 || volume.id().0 >= self.header.next_volume {
                return Err(RowError::Contradiction(format!("volume {} was never given out", volume.id())));
            }
            if !volume.is_deleted() && names.insert(volume.name(), volume.id()).is_some() {
                return Err(RowError::Contradiction(format!("two volumes have the name of volume {}", volume.id())));
            }
        }
        Ok(())
    }

    fn cluster_rows(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        let nodes = self.nodes.iter().map(|(id, node)| (ClusterKey::Node(*id).encode(), encode_value(node)));
        std::iter::once((ClusterKey::Header.encode(), encode_value(&self.header))).chain(nodes)
    }

    /// Lists the cluster's rows that differ from before and keeps the digest in step.
    fn note_cluster_rows(&mut self, (header, nodes): &(ClusterRow, OrdMap<NodeId, NodeInfo>), effects: &mut Effects) {
        let mut note = |key: ClusterKey, old: Option<Bytes>, new: Option<Bytes>| {
            if old == new {
                return;
            }
            let key = key.encode();
            if let Some(old) = &old {
                self.digest = self.digest.wrapping_sub(row_digest(&key, old));
            }
            if let Some(new) = &new {
                self.digest = self.digest.wrapping_add(row_digest(&key, new));
            }
            effects.rows.push(RowChange { key, value: new });
        };
        note(ClusterKey::Header, Some(encode_value(header)), Some(encode_value(&self.header)));
        // At most a handful of nodes: all are compared.
        let mut ids: Vec<NodeId> = nodes.keys().chain(self.nodes.keys()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            note(ClusterKey::Node(id), nodes.get(&id).map(encode_value), self.nodes.get(&id).map(encode_value));
        }
    }
}

/// Short: a state may have millions of rows.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("founding", &self.header.founding)
            .field("applied", &self.applied)
            .field("volumes", &self.volumes)
            .field("digest", &format_args!("{:032x}", self.digest()))
            .finish_non_exhaustive()
    }
}
