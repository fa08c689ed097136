//! Everything that needs no process of ours: the cores against models and in the simulator, the stores, the shape of the
//! house.

#[path = "../support/require.rs"]
mod require;

mod model;
mod nodes;
mod sim;
mod store;
mod tidy;
