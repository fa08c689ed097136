//! The store on disk: what it gives back after restarts, kills, power cuts and damage.

#[path = "store/facade.rs"]
mod facade;
#[path = "store/support.rs"]
mod support;
