//! The HTTP front: routes, auth, query planning, scatter and the exact merge.

pub mod json_scan;
pub mod merge;
