//! Before traffic moves to a Service: do its EndpointSlices name pods? Gateways send to these, and not to what is ready. The
//! controller that writes them can be far behind, after an outage of the API server for a minute and more.
//!
//! Asked on the way forward only, and only where pods are ready: nothing that goes back waits for it. Pods wait: they are not
//! taken away (`unserved.rs`) while the agent's Service still names them.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::Error;
use super::context::{Context, Key};
use crate::launch::{Observation, Shares, Step};
use crate::revision::names::revision_name;

/// Refuses to move traffic to a Service while gateways know none of its revision's pods: where a write `rises`, and where it
/// puts a route at rest that was `found` shared.
pub(super) async fn known(
    ctx: &Context,
    key: &Key,
    seen: &Observation,
    step: &Step,
    found: Option<&Shares>,
    rises: bool,
) -> Result<(), Error> {
    let Some(shares) = &step.wanted.shares else { return Ok(()) };
    let comes_to_rest = !step.wanted.falling && *shares == Shares::AtRest && found != Some(&Shares::AtRest);
    if !rises && !comes_to_rest {
        return Ok(());
    }
    for (service, revision) in targets(&key.1, step, shares) {
        let ready = seen.pods.get(revision).is_some_and(|pods| pods.ready > 0);
        if ready && !names(ctx, key, &service, revision).await? {
            return Err(Error::NoEndpoints { service, revision: revision.to_owned() });
        }
    }
    Ok(())
}

/// The Services that get traffic, and whose pods should answer.
fn targets<'a>(agent: &str, step: &'a Step, shares: &'a Shares) -> Vec<(String, &'a str)> {
    let own = |revision: &'a String| (revision_name(agent, revision), revision.as_str());
    match shares {
        Shares::Split { stable, canary, weight } => {
            let parts = [(stable, *weight < 100), (canary, *weight > 0)];
            parts.into_iter().filter(|(_, asked)| *asked).map(|(revision, _)| own(revision)).collect()
        }
        Shares::Matched { stable, canary, .. } => vec![own(stable), own(canary)],
        Shares::AtRest => {
            // the agent's Service has moved: to a canary that is promoted, or back from one that is not stable any more. Its slices
            // may still name those whom it left; until they follow, the shares of the route serve whom they should.
            let moved = step.wanted.service.as_ref();
            moved.map(|revision| (agent.to_owned(), revision.as_str())).into_iter().collect()
        }
        Shares::Foreign(_) => Vec::new(),
    }
}

/// Whether a Service has a ready endpoint that is a pod of this revision.
pub(super) async fn names(ctx: &Context, key: &Key, service: &str, revision: &str) -> Result<bool, Error> {
    let api = Api::<EndpointSlice>::namespaced(ctx.client.clone(), &key.0);
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = ctx.calls.read("EndpointSlice", service, api.list(&of)).await?;
    let pods = ctx.caches.pods_of(&key.0, &key.1).into_iter().filter(|(of, _)| of == revision);
    let pods: BTreeSet<String> = pods.map(|(_, pod)| pod.name_any()).collect();
    Ok(slices.items.iter().any(|slice| serves(slice, &pods)))
}

/// Whether a slice has one of these pods as a ready endpoint.
fn serves(slice: &EndpointSlice, pods: &BTreeSet<String>) -> bool {
    let ready = slice.endpoints.iter().filter(|it| it.conditions.as_ref().is_none_or(|it| it.ready != Some(false)));
    let mut named = ready.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_ref());
    named.any(|pod| pods.contains(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
        let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": endpoints});
        serde_json::from_value(slice).unwrap()
    }

    fn endpoint(pod: &str, ready: bool) -> serde_json::Value {
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
    }

    #[test]
    fn a_slice_serves_a_revision_when_it_names_a_ready_pod_of_it() {
        let serves = |endpoints| serves(&slice(&endpoints), &["refunds-b2-5d-x".to_owned()].into());
        assert!(serves(json!([endpoint("refunds-b2-5d-x", true)])));
        assert!(!serves(json!([])) && !serves(json!([endpoint("refunds-b2-5d-x", false)])));
        assert!(!serves(json!([endpoint("refunds-a1-5d-x", true)])), "it still sends to the revision before");
    }

    #[test]
    fn a_slice_that_is_not_filled_yet_serves_nobody() {
        assert!(!serves(&slice(&json!(null)), &["refunds-b2-5d-x".to_owned()].into()));
    }
}
