//! The store on disk: what it gives back after restarts, kills, power cuts and damage.

mod facade;
mod install;
mod kill;
mod log_crash;
mod memory;
mod packs_crash;
mod recorder;
mod support;
mod trouble;
