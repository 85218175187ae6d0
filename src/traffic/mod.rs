//! Who moves the weight: the agent's HTTPRoute (Gateway API), read and edited as plain values.
//!
//! Everything is pure: the shell fetches a route, edits it here, and replaces it guarded by its `resourceVersion`, because
//! the lists of a route are atomic and cannot be owned in parts. What Sluice does not know of a route survives an edit.

mod adopted;
mod by_pods;
mod claims;
mod edit;
mod mark;
mod matching;
mod read;
mod route;

pub use adopted::{marked_by, marks_of, read_adopted, released, with_adopted_shares};
pub use by_pods::{
    PodSplit, asked_pods, besides, port_differs, ports_differ, read_service, selects_all, service_version, split_of,
    splitting, stray,
};
pub use claims::{share_a_hostname, taken_by};
pub use edit::{render, same_base, with_base, with_shares};
pub use mark::{HIGHEST_EPOCH, Mark, decision, epoch, highest_epoch, unpruned};
pub use read::{canary_share, read, version};
pub use route::{BackendRef, HTTPRoute, HttpRouteRule, HttpRouteSpec, HttpRouteStatus, ParentReference, RouteParent};

#[cfg(test)]
mod tests;
