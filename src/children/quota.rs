//! Whether the quotas of a namespace hold so many more pods like one that runs there. Kubernetes refuses what is over a quota
//! pod by pod; this asks for all pods of a launch before it moves anything. Quotas with scopes are left to Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceQuota, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use rust_decimal::Decimal;

type Amounts = BTreeMap<String, Decimal>;

/// What of which quota is not there for `more` pods like `pod`, in words. `None` when all of it is.
pub fn lacking(quotas: &[ResourceQuota], pod: &Pod, more: i32) -> Option<String> {
    let each = pod.spec.as_ref().map(charged).unwrap_or_default();
    quotas.iter().filter(|quota| !scoped(quota)).find_map(|quota| lacks(quota, &each, more))
}

fn scoped(quota: &ResourceQuota) -> bool {
    let spec = quota.spec.as_ref();
    spec.is_some_and(|spec| spec.scopes.as_ref().is_some_and(|it| !it.is_empty()) || spec.scope_selector.is_some())
}

fn lacks(quota: &ResourceQuota, each: &Amounts, more: i32) -> Option<String> {
    let status = quota.status.as_ref()?; // it is not counted yet, and Kubernetes does not judge by it either
    let (hard, used) = (status.hard.as_ref()?, status.used.as_ref());
    hard.iter().find_map(|(name, hard)| {
        let needed = each.get(name)?.saturating_mul(Decimal::from(more));
        let used = used.and_then(|used| used.get(name)).cloned().unwrap_or_else(|| Quantity("0".to_owned()));
        let over = amount(&used)?.saturating_add(needed) > amount(hard)?;
        let text = || {
            let (quota, needed) = (quota.name_any(), words(name, needed));
            format!(
                "quota {quota} allows {name} {}, of which {} is used, and {more} more pods need {needed}",
                hard.0, used.0
            )
        };
        over.then(text)
    })
}

/// What quotas charge for one pod, by the names that quotas use.
fn charged(pod: &PodSpec) -> Amounts {
    let mut charged = Amounts::from(["pods", "count/pods"].map(|name| (name.to_owned(), Decimal::ONE)));
    for (name, amount) in effective(pod, |resources| resources.requests.as_ref()) {
        charged.insert(format!("requests.{name}"), amount);
        if ["cpu", "memory", "ephemeral-storage"].contains(&&*name) {
            charged.insert(name, amount);
        }
    }
    let limits = effective(pod, |resources| resources.limits.as_ref());
    charged.extend(limits.into_iter().map(|(name, amount)| (format!("limits.{name}"), amount)));
    charged
}

/// What a pod asks for as a whole, as the scheduler counts: its containers together with its sidecars, or the largest moment
/// of its start if that is more, and its overhead; or what the pod itself says.
fn effective(pod: &PodSpec, kind: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let asks = |container: &Container| container.resources.as_ref().and_then(kind).map(amounts).unwrap_or_default();
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for init in pod.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, asks(init));
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, asks(init));
            raise(&mut peak, moment);
        }
    }
    let mut running = sidecars;
    pod.containers.iter().for_each(|container| add(&mut running, asks(container)));
    raise(&mut running, peak);
    running.extend(pod.resources.as_ref().and_then(kind).map(amounts).unwrap_or_default());
    add(&mut running, pod.overhead.as_ref().map(amounts).unwrap_or_default());
    running
}

fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let known = sum.entry(name).or_default();
        *known = known.saturating_add(amount);
    }
}

fn raise(least: &mut Amounts, to: Amounts) {
    for (name, amount) in to {
        let known = least.entry(name).or_default();
        *known = amount.max(*known);
    }
}

fn amounts(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    quantities.iter().filter_map(|(name, quantity)| Some((name.clone(), amount(quantity)?))).collect()
}

/// The number that a quantity means, exactly; `None` for one that no API server would hold. By hand because kube_quantity
/// goes through floats and panics on large sums.
fn amount(quantity: &Quantity) -> Option<Decimal> {
    let text = &*quantity.0;
    let digits = text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let place = |units: &[&str]| units.iter().position(|unit| *unit == suffix).and_then(|at| u32::try_from(at).ok());
    let power = |base: i64, exponent: u32| base.checked_pow(exponent).map(Decimal::from);
    let factor = if let Some(at) = place(&["", "k", "M", "G", "T", "P", "E"]) {
        power(1000, at)?
    } else if let Some(at) = place(&["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) {
        power(1024, at)?
    } else if let Some(at) = place(&["", "m", "u", "n"]) {
        Decimal::new(1, at * 3)
    } else {
        return Decimal::from_scientific(text).ok();
    };
    number.parse::<Decimal>().ok()?.checked_mul(factor)
}

/// An amount as people write it: bytes in the largest unit that is whole.
fn words(name: &str, amount: Decimal) -> String {
    let bytes = ["memory", "storage", "hugepages"].iter().any(|kind| name.contains(kind));
    let units = [("Gi", 1024_i64.pow(3)), ("Mi", 1024_i64.pow(2)), ("Ki", 1024)];
    let whole = |unit: i64| !amount.is_zero() && (amount % Decimal::from(unit)).is_zero();
    match units.into_iter().find(|(_, unit)| bytes && whole(*unit)) {
        Some((suffix, unit)) => format!("{}{suffix}", (amount / Decimal::from(unit)).normalize()),
        None => amount.normalize().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn quota(hard: &Value, used: &Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "tight"}, "status": {"hard": hard, "used": used}})).unwrap()
    }

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn asking(requests: &Value) -> Value {
        json!({"name": "a", "resources": {"requests": requests, "limits": {"memory": "1Gi"}}})
    }

    #[test]
    fn a_quota_is_asked_for_all_the_pods_that_are_still_to_come() {
        let pod =
            pod(&json!({"containers": [asking(&json!({"cpu": "250m", "memory": "128Mi", "nvidia.com/gpu": "1"}))]}));
        for (hard, used, more, told) in [
            (json!({"pods": "6"}), json!({"pods": "5"}), 1, None),
            (
                json!({"pods": "6"}),
                json!({"pods": "5"}),
                3,
                Some("quota tight allows pods 6, of which 5 is used, and 3 more pods need 3"),
            ),
            (json!({"count/pods": "1"}), json!({}), 1, None),
            (
                json!({"requests.cpu": "2"}),
                json!({"requests.cpu": "1500m"}),
                3,
                Some("quota tight allows requests.cpu 2, of which 1500m is used, and 3 more pods need 0.75"),
            ),
            (json!({"cpu": "2"}), json!({"cpu": "1500m"}), 2, None),
            (
                json!({"memory": "1G"}),
                json!({"memory": "512Mi"}),
                4,
                Some("quota tight allows memory 1G, of which 512Mi is used, and 4 more pods need 512Mi"),
            ),
            (json!({"limits.memory": "4Gi"}), json!({"limits.memory": "0"}), 4, None),
            (
                json!({"requests.nvidia.com/gpu": "2"}),
                json!({"requests.nvidia.com/gpu": "1"}),
                2,
                Some("quota tight allows requests.nvidia.com/gpu 2, of which 1 is used, and 2 more pods need 2"),
            ),
            (json!({"secrets": "0", "limits.cpu": "0"}), json!({"secrets": "9"}), 9, None), // pods need none of it
        ] {
            assert_eq!(lacking(&[quota(&hard, &used)], &pod, more).as_deref(), told, "{hard} {used} {more}");
        }
    }

    #[test]
    fn a_quota_that_is_not_counted_yet_or_is_for_some_pods_only_is_left_to_kubernetes() {
        let mut tight = quota(&json!({"pods": "1"}), &json!({"pods": "1"}));
        assert!(lacking(&[tight.clone()], &pod(&json!({"containers": []})), 1).is_some());
        tight.spec = serde_json::from_value(json!({"scopes": ["BestEffort"]})).unwrap();
        assert_eq!(lacking(&[tight.clone()], &pod(&json!({"containers": []})), 1), None);
        (tight.spec, tight.status) = (None, None);
        assert_eq!(lacking(&[tight], &pod(&json!({"containers": []})), 1), None);
    }

    #[test]
    fn a_pod_asks_for_its_containers_and_sidecars_or_for_the_largest_moment_of_its_start() {
        let asks = |cpu: &str| json!({"name": "a", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            |cpu: &str| json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, cpu) in [
            (json!({"containers": [asks("1"), asks("500m")]}), "1.5"),
            (json!({"containers": [asks("1")], "initContainers": [asks("3")]}), "3"),
            (json!({"containers": [asks("1")], "initContainers": [sidecar("1"), asks("3")]}), "4"),
            (json!({"containers": [asks("4")], "initContainers": [asks("3"), sidecar("1")]}), "5"),
            (json!({"containers": [asks("1")], "overhead": {"cpu": "100m"}}), "1.1"),
            (json!({"containers": [asks("1")], "resources": {"requests": {"cpu": "7"}}}), "7"),
        ] {
            let each = charged(&pod(&spec).spec.unwrap());
            assert_eq!(each["cpu"].normalize().to_string(), cpu, "{spec}");
        }
    }

    #[test]
    fn quantities_are_read_exactly() {
        for (text, number) in [
            ("0", Some("0")),
            ("-1", Some("-1")),
            ("1.5", Some("1.5")),
            ("100m", Some("0.1")),
            ("1n", Some("0.000000001")),
            ("2k", Some("2000")),
            ("1Ki", Some("1024")),
            ("9223372036854775807", Some("9223372036854775807")),
            ("8Ei", Some("9223372036854775808")),
            ("1e3", Some("1000")),
            ("12E2", Some("1200")),
            ("", None),
            ("1x", None),
            ("9999999999999999999999999999E", None),
        ] {
            let read = amount(&Quantity(text.to_owned())).map(|amount| amount.normalize().to_string());
            assert_eq!(read.as_deref(), number, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_as_a_quantity_panics(hard in ".{0,40}", used in "[0-9.]{1,30}(n|m|E|Ei|e[0-9]{1,3})?", more in 0..i32::MAX) {
            let pod = pod(&json!({"containers": [asking(&json!({"cpu": used, "memory": "8Ei"}))]}));
            lacking(&[quota(&json!({"cpu": hard, "memory": "1"}), &json!({"cpu": used, "memory": used}))], &pod, more);
        }
    }
}
