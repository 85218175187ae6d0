//! Writes a Service as it should be: by an apply, after what an apply leaves behind has gone.
//!
//! An apply merges ports by number and protocol, and leaves alone what others wrote. A port that somebody changed stays beside
//! ours under the same name, and the API server refuses that: for ever, and a rollback too. Ports are Sluice's alone, in one
//! Service as in the other; who needs another port makes a Service of his own. And a decision that an earlier build wrote by
//! another kind of write would stay beside the name of the next launch, as if it were about that one.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::Error;
use super::context::{Context, Key};
use super::perform;
use crate::traffic;

/// Applies a Service upon the one that was read, if one was. Both writes are refused when somebody wrote it since.
pub(super) async fn apply(ctx: &Context, key: &Key, read: Option<&Service>, mut wanted: Service) -> Result<(), Error> {
    let in_the_way = read.map(|read| (read, in_the_way(read, &wanted))).filter(|(_, edits)| !edits.is_empty());
    if let Some((read, edits)) = in_the_way {
        let api = Api::<Service>::namespaced(ctx.client.clone(), &key.0);
        let cleared = perform::edit(ctx, "Service", &api, read, edits).await?;
        wanted.metadata.resource_version = cleared.resource_version();
    }
    // always an apply: the next one takes away what this one marked
    perform::apply::<Service>(ctx, key, "Service", &wanted).await.map(drop)
}

/// Edits that take away what an apply of this Service would leave there.
fn in_the_way(live: &Service, wanted: &Service) -> Vec<Value> {
    let (ours, found) = (ports(wanted.spec.as_ref()), ports(live.spec.as_ref()));
    let known = |port: &ServicePort| ours.iter().any(|our| (our.port, protocol(our)) == (port.port, protocol(port)));
    let foreign = found.iter().any(|port| !known(port));
    let whole = foreign.then(|| json!({"op": "replace", "path": "/spec/ports", "value": ours}));
    let marks = traffic::unpruned(live, wanted.annotations()).into_iter();
    let unmark =
        |key: &str| json!({"op": "remove", "path": format!("/metadata/annotations/{}", key.replace('/', "~1"))});
    whole.into_iter().chain(marks.map(unmark)).collect()
}

/// Whether a Service sends to whom it should: what we own of it is as we want it.
pub(super) fn same_service(live: &Service, wanted: &Service) -> bool {
    let (Some(live), Some(wanted)) = (&live.spec, &wanted.spec) else { return false };
    let targets = |spec: &ServiceSpec| -> Vec<_> {
        let target =
            |port: &ServicePort| (port.name.clone(), port.port, protocol(port).to_owned(), port.target_port.clone());
        ports(Some(spec)).iter().map(target).collect()
    };
    live.selector == wanted.selector && targets(live) == targets(wanted)
}

fn ports(spec: Option<&ServiceSpec>) -> &[ServicePort] {
    spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"selector": {"a": "b"}, "ports": ports}}))
            .unwrap()
    }

    fn port(name: &str, port: i32, protocol: &str) -> Value {
        json!({"name": name, "port": port, "protocol": protocol, "targetPort": 8080})
    }

    #[test]
    fn a_port_that_an_apply_would_leave_beside_ours_goes_first() {
        let ours = port("http", 80, "TCP");
        let wanted = service(&json!([ours]));
        let whole = [json!({"op": "replace", "path": "/spec/ports", "value": [ours]})];
        for foreign in [
            json!([port("http", 8080, "TCP")]),
            json!([port("http", 80, "UDP")]),
            json!([ours, port("metrics", 9090, "TCP")]),
        ] {
            let live = service(&foreign);
            assert!(!same_service(&live, &wanted), "{foreign}");
            assert_eq!(in_the_way(&live, &wanted), whole, "{foreign}");
        }
    }

    #[test]
    fn what_an_apply_puts_right_by_itself_is_one_write() {
        let wanted = service(&json!([port("http", 80, "TCP")]));
        let renamed = service(&json!([port("web", 80, "TCP")]));
        assert!(!same_service(&renamed, &wanted) && in_the_way(&renamed, &wanted).is_empty());
        assert!(same_service(&wanted, &wanted) && in_the_way(&wanted, &wanted).is_empty());
        let without = service(&json!(null));
        assert!(!same_service(&without, &wanted) && in_the_way(&without, &wanted).is_empty());
    }
}
