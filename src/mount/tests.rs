//! The mount against a scripted leader that holds a real volume, stores that hold real blocks, and a kernel that locks
//! what Linux locks: in virtual time, without a thread.

mod belief;
mod coherence;
mod content;
mod delegation;
mod leader;
mod lease;
mod locks;
mod model;
mod opens;
mod refills;
mod scene;
mod session;
mod stale;
mod tree;
mod turns;
