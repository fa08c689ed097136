//! The mount against a scripted leader that holds a real volume, stores that hold real blocks, and a kernel that locks
//! what Linux locks: in virtual time, without a thread.

mod leader;
mod scene;
mod tree;
