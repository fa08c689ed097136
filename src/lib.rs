//! ManyFS: a replicated file system for many pods on one `wp-content`.
//!
//! ARCHITECTURE.md explains the parts, their layers and every word that is used in one sense only; docs/protocol.md has
//! the rules that comments cite. Cores (`namespace`, `replica`, `coordinator`, `node`, `client`, `mount`) do no I/O and
//! know no clock. Shells (`storage`, `server`, `fuse`, `holder`, `cli`, `telemetry`) carry out what the cores ask for.

pub mod admission;
pub mod bench;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod fuse;
pub mod holder;
pub mod limits;
pub mod message;
pub mod mount;
pub mod namespace;
pub mod node;
pub mod pki;
pub mod replica;
pub mod server;
pub mod sim;
pub mod storage;
pub mod telemetry;
pub mod transport;
pub mod types;
pub mod wire;
