//! ManyFS: a replicated file system for many pods on one `wp-content`.
