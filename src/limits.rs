//! Every bound of the system, in one place, with their relations proved at compile time.

use std::time::Duration;

/// Bytes of a directory entry's name (Linux NAME_MAX) and of an extended attribute's name.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a symlink's target (Linux PATH_MAX without the final zero).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Bytes of an extended attribute's value (Linux XATTR_SIZE_MAX).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all names of an inode's attributes together, each with its final zero (Linux XATTR_LIST_MAX).
pub const XATTR_LIST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all names and values of an inode's attributes together: 64 of the largest. Beyond it ENOSPC.
pub const XATTR_INODE_BYTES_MAX: u64 = 64 * (XATTR_VALUE_BYTES_MAX + NAME_BYTES_MAX) as u64;
/// The same of all inodes of a volume: nodes and mounts keep attributes in memory.
pub const XATTR_VOLUME_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Inodes that a volume may be given, those without a name that are still in use included.
pub const INODES_MAX: u64 = 2 * 1024 * 1024;
/// Inodes of a volume for which nothing else was said; beyond it ENOSPC. It fits the memory of the pods in
/// `deploy/kubernetes`, which a test compares.
pub const INODES_DEFAULT: u64 = 256 * 1024;
/// Memory of an inode with its name at a node and at a mount, in bytes, about.
pub const NODE_BYTES_PER_INODE: u64 = 800;
pub const MOUNT_BYTES_PER_INODE: u64 = 600;
/// Space of the stores that a new file takes at least, in bytes: statfs shows so many free inodes.
pub const INODE_BYTES: u64 = 1024;
/// Bytes of a file: 16 TiB.
pub const FILE_BYTES_MAX: u64 = 16 << 40;
/// Names of one inode.
pub const LINKS_MAX: u32 = 65_000;
/// Extents of a file beyond its first; beyond it EFBIG. 1 GiB written at random in pages of 4 KiB has half as many.
pub const EXTENTS_PER_FILE_MAX: u64 = 512 * 1024;
/// The same of all files of a volume; beyond it ENOSPC.
pub const EXTENTS_PER_VOLUME_MAX: u64 = 1024 * 1024;
/// Memory of such an extent at a node, with the block that it names, and at a mount, in bytes, about.
pub const NODE_BYTES_PER_EXTENT: u64 = 400;
pub const MOUNT_BYTES_PER_EXTENT: u64 = 100;

/// Bytes of content that travel in a log entry; more goes as blocks to the stores first.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a block.
pub const BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// Memory in which a mount notes the names that its kernel was told, in bytes: of 50,000 names one in 90 is mistaken.
pub const TOLD_NAMES_BYTES: usize = 64 * 1024;
/// How far before a file's end a kernel is told of it, at most: where requests keep the pages between locked.
pub const SIZE_REACH_BYTES: usize = 64 * BLOCK_BYTES_MAX;
/// Pieces of one write operation: a flush of more is several operations.
pub const PIECES_MAX: usize = 256;
/// Bytes of an encoded log entry: inline content, or the largest xattr, and the header and names around it.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Sessions or inodes that one entry of the leader itself names; of more there are several entries.
pub const ENTRY_LIST_MAX: usize = 1024;
/// Bytes of one message between processes; a stream of larger things is cut into pieces.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of rows in one piece of a snapshot.
pub const SNAPSHOT_PIECE_BYTES: usize = 512 * 1024;

/// Calls of one session that may be unanswered at a time; the mount holds further ones back.
pub const SESSION_CALLS_MAX: usize = 256;
/// Answers of one session that the cluster keeps until their arrival is confirmed; the oldest go first.
pub const SESSION_REPLIES_MAX: usize = 4 * SESSION_CALLS_MAX;
/// Ranges in which a session's spent calls are kept apart. A mount numbers its calls without gaps and has at most
/// `SESSION_CALLS_MAX` of them open, so twice as many gaps do not come about in good order.
pub const SESSION_SPENT_RANGES_MAX: usize = 2 * SESSION_CALLS_MAX;
/// Bytes of all sessions' calls that wait at the leader for their place in the log; whoever brings more is sent away for a
/// moment.
pub const WAITING_CALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How much later than its entry a time may be that a mount has stamped. Clocks of leaders differ by less: what stat has
/// shown while the change was buffered stays as it was when it is in the log.
pub const STAMP_LEAD_MAX: Duration = Duration::from_secs(1);

/// Locks that one file has, and requests for locks that wait for it; beyond it ENOLCK.
pub const LOCKS_PER_FILE_MAX: usize = 100_000;
pub const LOCK_WAITERS_PER_FILE_MAX: usize = 512;
/// Locks that one file has when all that wait for some have theirs: each splits one lock into three at most, so it takes
/// two places more than it leaves in the queue.
pub const LOCK_PLACES_PER_FILE_MAX: usize = LOCKS_PER_FILE_MAX + 2 * LOCK_WAITERS_PER_FILE_MAX;
/// Locks and waiting requests of one session; beyond it ENOLCK.
pub const LOCKS_PER_SESSION_MAX: usize = LOCKS_PER_FILE_MAX;
/// The same of a volume: nodes and mounts keep each in memory.
pub const LOCKS_PER_VOLUME_MAX: usize = 2 * LOCKS_PER_SESSION_MAX;
/// Locks of its owner that one call replaces or ends; the mount asks again for the rest.
pub const LOCKS_PER_CALL_MAX: usize = 1000;
/// Locks of its owner that a request which waits may replace; beyond it ENOLCK.
pub const LOCKS_PER_GRANT_MAX: usize = 4;

/// A machine's wall clock that moves by this much at once was set; less is a clock that is being kept right.
pub const CLOCK_JUMP_MIN: Duration = Duration::from_secs(1);
/// A voter's wall clock is wrong when it differs from the median of all by this much.
pub const CLOCK_WRONG_MIN: Duration = Duration::from_secs(5);
/// How far stamps may be ahead of the clock and still be waited for, one nanosecond after the other. What is further ahead
/// comes from a clock that was wrong: new stamps are by the clock again, and only inodes with such times keep ahead of them.
pub const STAMP_AHEAD_MAX: Duration = Duration::from_secs(10);

/// Sessions of a cluster.
pub const SESSIONS_MAX: usize = 1024;
/// Connections to the port of mounts: each mount has a stream to the leader, and one to every store for blocks.
pub const CONNECTIONS_CLIENT_MAX: usize = 2 * SESSIONS_MAX + 256;
/// Connections to the port of peers.
pub const CONNECTIONS_PEER_MAX: usize = 256;
/// Different lines that a process remembers to have logged, so that it says each seldom when it comes again and again.
pub const LOG_REPEATS_MAX: usize = 256;
/// Connections to the HTTP port: probes and scrapers, answered at once.
pub const CONNECTIONS_HTTP_MAX: usize = 64;
/// TLS handshakes that one port carries out at a time.
pub const HANDSHAKES_MAX: usize = 256;
/// Streams of one connection: that of a mount's calls, or its blocks' on their way. A client keeps further ones back.
pub const STREAMS_MAX: u32 = 32;
/// Of these, streams of calls: each may bring a message of `MESSAGE_BYTES_MAX`. One that ended may be dropped after the next
/// has begun.
pub const CALL_STREAMS_MAX: usize = 2;
/// Requests for blocks that a store reads and carries out at a time, and of one credential: each has a block in memory.
pub const TRANSFERS_MAX: usize = 64;
pub const TRANSFERS_PER_CREDENTIAL_MAX: usize = TRANSFERS_MAX / 2;
/// Blocks that one session may have pinned by uploads which no entry has named yet: a mount has 64 MiB on its way at most,
/// in blocks of 16 KiB and more.
pub const PINS_PER_SESSION_MAX: usize = 16 * 1024;
/// The same of all sessions: stores keep each pin in memory. A session that has fewer than the second number may always have
/// more: those of the operation that comes next, and those of one behind it.
pub const PINS_MAX: usize = 4 * PINS_PER_SESSION_MAX;
pub const PINS_PER_SESSION_KEPT: usize = 2 * PIECES_MAX;
/// Bytes of a request or an answer around the block in it.
pub const BLOCK_MESSAGE_BYTES_MAX: usize = BLOCK_BYTES_MAX + 4096;
/// Files and sockets that a storage node opens at most; where the system allows fewer, connections are fewer.
pub const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Of these, those that no connection from outside may use: the store's files, streams to peers, listeners.
pub const DESCRIPTORS_KEPT: usize = 256;

/// Sessions of one credential: all pods of a site share one.
pub const SESSIONS_PER_CREDENTIAL_MAX: usize = SESSIONS_MAX / 4;
/// Bytes of what a mount says of itself for `status`: its host, its directory. Leaders keep both for each session.
pub const LABEL_BYTES_MAX: usize = 255;
/// Bytes of a volume's name.
pub const VOLUME_NAME_BYTES_MAX: usize = 63;
/// Bytes that one copy_file_range moves at most; the caller asks for the rest again.
pub const COPY_RANGE_BYTES_MAX: u64 = 1 << 30;
/// Files without a name that all sessions together may have in use, each counted for each session: a leader keeps them in
/// memory. A session that uses fewer than the second number may always use more.
pub const USES_MAX: usize = INODES_MAX as usize;
pub const USES_PER_SESSION_KEPT: usize = 1024;
/// Volumes of a cluster.
pub const VOLUMES_MAX: usize = 1024;
/// Voters of a cluster.
pub const VOTERS_MAX: usize = 7;

/// Bytes of the log's entries that a node keeps (in memory and on disk) for followers and mounts that lag; what lags
/// further gets a snapshot.
pub const LOG_RETAINED_BYTES: usize = 32 * 1024 * 1024;
/// Entries that are proposed and not yet committed, in bytes; beyond it the leader pushes back.
pub const UNCOMMITTED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of applied entries that the state store has not synced yet; beyond it the leader pushes back.
pub const STATE_BACKLOG_BYTES_MAX: usize = 24 * 1024 * 1024;
/// What one row of them counts for there: its key and value as the store's queue holds them.
pub const STATE_BACKLOG_ROW_BYTES: usize = 256;
/// Rows that the state store writes in one step: sled keeps some 8 KiB of old tree for each until the step is done.
pub const STATE_STEP_ROWS: usize = 1000;
/// Rows that one entry of the leader's own takes away, of unlinked files, deleted volumes and ended sessions, give or take
/// the few of one inode; the rest is left for the next.
pub const REAPED_ROWS_MAX: usize = 1000;
/// Extents that one call takes away, cuts or moves, give or take a few; the mount asks again for the rest.
pub const EXTENTS_PER_CALL_MAX: usize = 1000;
/// Rows that one entry changes at most: the extents or locks it takes away, the locks that those get who waited for these
/// (what a lock replaces, what it leaves on both sides, itself and its request), the answers it confirms, and a few more.
pub const ENTRY_ROWS_MAX: usize =
    EXTENTS_PER_CALL_MAX + (LOCKS_PER_GRANT_MAX + 6) * LOCK_WAITERS_PER_FILE_MAX + SESSION_REPLIES_MAX + 64;
/// Bytes of one preallocated segment of the log.
pub const LOG_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes after which a pack is closed and the next one begun.
pub const PACK_BYTES: u64 = 256 * 1024 * 1024;

/// Default bytes of a mount's content cache.
pub const CONTENT_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes written and not yet flushed, of one mount; beyond it write() waits.
pub const DIRTY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one FUSE write request (FUSE max_write).
pub const FUSE_WRITE_BYTES_MAX: u32 = 1024 * 1024;
/// Background requests the kernel may queue (docs/protocol.md R26-mappings).
pub const FUSE_BACKGROUND_MAX: u16 = 512;

/// Inodes that a mount's kernel may answer about without asking for a name: directories and open files. Beyond it nothing
/// of a further one is kept.
pub const WATCHED_INODES_MAX: usize = 65_536;
/// Of these, kept free for open files.
pub const WATCHED_FILES_MIN: usize = WATCHED_INODES_MAX / 8;

/// Versions of the protocol between mounts and nodes that this program speaks.
pub const PROTOCOL_MIN: u16 = 1;
pub const PROTOCOL_MAX: u16 = 1;
/// Newest feature level of log entries that this program understands.
pub const FEATURE_LEVEL: u16 = 1;

/// The port of mounts and administration, of peers, and of HTTP.
pub const PORT_CLIENT: u16 = 7440;
pub const PORT_PEER: u16 = 7441;
pub const PORT_HTTP: u16 = 7442;

/// What a node keeps for followers and mounts that lag, and sends to those that lag further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of the log's entries.
    pub log_bytes: usize,
    /// Bytes of rows in one piece of a snapshot.
    pub piece_bytes: usize,
}

impl Retention {
    /// That of production.
    pub const DEFAULT: Self = Self { log_bytes: LOG_RETAINED_BYTES, piece_bytes: SNAPSHOT_PIECE_BYTES };
}

/// How many sessions a leader opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBounds {
    pub total: usize,
    pub per_credential: usize,
}

impl SessionBounds {
    /// Those of production.
    pub const DEFAULT: Self = Self { total: SESSIONS_MAX, per_credential: SESSIONS_PER_CREDENTIAL_MAX };
}

/// The times of the protocol. All scale together, so that a test may run them faster or slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The leader's heartbeat and a mount's renewal.
    pub heartbeat: Duration,
    /// E of R5-lease: how long a voter neither votes nor campaigns after a heartbeat.
    pub election: Duration,
    /// Width of one node's slot behind E; slots keep two nodes from campaigning at once.
    pub election_slot: Duration,
    /// X of R5-lease: how long a mount may answer from caches after sending a renewal that was answered.
    pub lease: Duration,
    /// Delegations and locks outlive their session's connection by this.
    pub hold: Duration,
    /// A session that was not heard of for this long is forgotten.
    pub session: Duration,
    /// A change that finds no quorum fails after this (`--write-timeout`).
    pub write_timeout: Duration,
    /// Written bytes are flushed at this age.
    pub flush_age: Duration,
    /// How long the kernel may keep names and attributes while the lease holds and invalidations arrive.
    pub cache: Duration,
}

impl Timing {
    /// The times of production.
    pub const DEFAULT: Self = Self {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(700),
        election_slot: Duration::from_millis(40),
        lease: Duration::from_millis(1400),
        hold: Duration::from_secs(10),
        session: Duration::from_secs(300),
        write_timeout: Duration::from_secs(30),
        flush_age: Duration::from_secs(1),
        cache: Duration::from_secs(365 * 24 * 3600),
    };

    /// All times `percent` hundredths as long; 100 leaves them as they are.
    #[must_use]
    pub fn scaled(self, percent: u32) -> Self {
        let scale = |time: Duration| time * percent / 100;
        Self {
            heartbeat: scale(self.heartbeat),
            election: scale(self.election),
            election_slot: scale(self.election_slot),
            lease: scale(self.lease),
            hold: scale(self.hold),
            session: scale(self.session),
            write_timeout: scale(self.write_timeout),
            flush_age: scale(self.flush_age),
            cache: self.cache,
        }
    }

    /// What the leader adds to a lease it has granted before it goes on without the session: clocks may drift apart by
    /// one part in 50 meanwhile.
    #[must_use]
    pub fn drift_margin(&self) -> Duration {
        self.lease / 50
    }

    /// How much earlier than the lease a mount's right to its kernel's caches ends: until then the kernel must have
    /// forgotten. The worker has the first half for it, its holder the second (R7-forgetting). Measured on an idle
    /// machine: 1.5 us for each inode.
    #[must_use]
    pub fn forget_time(&self, inodes: usize) -> Duration {
        let each = Duration::from_micros(8) * u32::try_from(inodes).unwrap_or(u32::MAX);
        (Duration::from_millis(40) + each).min(self.lease / 2)
    }

    /// How long an open of a file that one mount at a time may have open lets other mounts go first that wait for their
    /// turn. Whoever has it open now may be waiting for just this one, and is rarely done later than that.
    #[must_use]
    pub fn turn_patience(&self) -> Duration {
        self.write_timeout / 10
    }

    /// What a new leader waits for sessions that do not attach (R4-new-leader): X - E.
    #[must_use]
    pub fn attach_grace(&self) -> Duration {
        self.lease.saturating_sub(self.election)
    }
}

const fn ms(time: Duration) -> u128 {
    time.as_millis()
}

const _: () = {
    let t = Timing::DEFAULT;
    // The lease outlasts the election, so that a failover ends before healthy mounts lose their caches.
    assert!(ms(t.election) < ms(t.lease));
    assert!(ms(t.lease) < ms(t.hold));
    assert!(ms(t.hold) < ms(t.session));
    // R17-exactly-once: session and reply table live at least ten write timeouts.
    assert!(10 * ms(t.write_timeout) <= ms(t.session));
    // Three heartbeats may be lost before a voter campaigns.
    assert!(4 * ms(t.heartbeat) < ms(t.election));
    // Leader killed with a mount beside it: election in the last slot, then X - E, below two seconds.
    let slots = VOTERS_MAX as u128;
    let campaign = ms(t.election) + slots * ms(t.election_slot) + 2 * ms(t.heartbeat);
    assert!(campaign + (ms(t.lease) - ms(t.election)) + ms(t.lease) / 50 < 2000);
    // A session with all its calls waiting leaves room for others.
    assert!(2 * SESSION_CALLS_MAX * INLINE_BYTES_MAX <= WAITING_CALL_BYTES_MAX);
    // A container's usual limit of open files, 1024, leaves a place for every mount that a cluster must have (64).
    assert!((1024 - DESCRIPTORS_KEPT) / 2 >= 4 * 64);
    assert!(INLINE_BYTES_MAX + 2 * 4096 < ENTRY_BYTES_MAX);
    assert!(XATTR_VALUE_BYTES_MAX + 2 * 4096 < ENTRY_BYTES_MAX);
    // A number has at most ten bytes in the encoding of entries.
    assert!(10 * ENTRY_LIST_MAX + 4096 < ENTRY_BYTES_MAX);
    assert!(XATTR_INODE_BYTES_MAX <= XATTR_VOLUME_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX && BLOCK_BYTES_MAX < MESSAGE_BYTES_MAX);
    assert!(SNAPSHOT_PIECE_BYTES < MESSAGE_BYTES_MAX);
    assert!((LOG_SEGMENT_BYTES as usize) > 2 * ENTRY_BYTES_MAX);
    // What is reaped is written in one step of the store.
    assert!(REAPED_ROWS_MAX <= STATE_STEP_ROWS);
    assert!(EXTENTS_PER_FILE_MAX <= EXTENTS_PER_VOLUME_MAX);
    // Three for each piece that an entry brings.
    assert!(EXTENTS_PER_CALL_MAX + 3 * PIECES_MAX + SESSION_REPLIES_MAX + 64 <= ENTRY_ROWS_MAX);
    assert!(LOCKS_PER_CALL_MAX <= EXTENTS_PER_CALL_MAX && LOCKS_PER_SESSION_MAX <= LOCKS_PER_VOLUME_MAX);
    assert!(INODES_DEFAULT <= INODES_MAX);
    // Runs of a quarter of the inline limit and more are blocks; and twice as many after a retry under another upload.
    assert!(2 * DIRTY_BYTES_MAX / (INLINE_BYTES_MAX / 4) <= PINS_PER_SESSION_MAX);
    // A write that is carried out in parts has all parts but the last in its way, and still gets on.
    assert!(2 * PIECES_MAX + 2 < EXTENTS_PER_CALL_MAX);
    assert!(FUSE_WRITE_BYTES_MAX as usize <= BLOCK_BYTES_MAX);
};
