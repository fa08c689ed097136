//! The store on disk: what it gives back after restarts, kills, power cuts and damage.

#[path = "store/facade.rs"]
mod facade;
#[path = "store/install.rs"]
mod install;
#[path = "store/kill.rs"]
mod kill;
#[path = "store/log_crash.rs"]
mod log_crash;
#[path = "store/memory.rs"]
mod memory;
#[path = "store/packs_crash.rs"]
mod packs_crash;
#[path = "store/recorder.rs"]
mod recorder;
#[path = "support/require.rs"]
mod require;
#[path = "store/support.rs"]
mod support;
#[path = "store/trouble.rs"]
mod trouble;
