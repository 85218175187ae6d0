//! What can go wrong in a pass, and how soon to try again.

use std::time::Duration;

use crate::api::clip;
use crate::launch::promises::Broken;

/// An agent in a namespace that is being deleted is looked at again after so long.
pub(super) const NAMESPACE_ENDS: Duration = Duration::from_mins(1);

/// Why a pass ended early. Everything that was decided is decided again in the next pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer in time.
    #[error("could not {verb} {what}: no answer from the API server within {}s", limit.as_secs())]
    Slow {
        /// What was asked.
        verb: &'static str,
        /// Of which object.
        what: String,
        /// The time-out.
        limit: Duration,
    },
    /// The API server refused, or could not be reached.
    #[error("could not {verb} {what}")]
    Api {
        /// What was asked.
        verb: &'static str,
        /// Of which object.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The object changed under us: look again at once.
    #[error("{0} changed meanwhile")]
    Stale(String),
    /// An object of the agent's name belongs to somebody else.
    #[error("{0} exists and is not Sluice's: rename the agent, or remove that object")]
    Taken(String),
    /// A leader with a higher epoch wrote the object: it is not for us to change.
    #[error("{what} was written by a newer leader (epoch {theirs}, ours is {ours})")]
    Fenced {
        /// The object.
        what: String,
        /// The epoch that is written on it.
        theirs: i64,
        /// The epoch that we write under.
        ours: i64,
    },
    /// The pods are ready, but nothing tells gateways of them yet.
    #[error(
        "Service {service} has no ready endpoint of {revision}, whose pods are ready: see its EndpointSlices and kube-controller-manager"
    )]
    NoEndpoints {
        /// The Service that was to get traffic.
        service: String,
        /// Hash of the revision whose pods should answer.
        revision: String,
    },
    /// Pods are not needed any more, but something sends to them.
    #[error(
        "the pods of {revision} stay, for {by} sends to them and should not: see who writes it, and what hinders Sluice"
    )]
    Served {
        /// Hash of the revision.
        revision: String,
        /// Kind and name of what sends to it.
        by: String,
    },
    /// Another process leads.
    #[error("this process does not lead")]
    NotLeading,
    /// A stored revision is gone or cannot be read.
    #[error("revision {revision} cannot be restored: {why}")]
    LostRevision {
        /// Hash of the revision.
        revision: String,
        /// Why, and the mend.
        why: String,
    },
    /// What was decided breaks a promise of Sluice. This is a bug; nothing goes forward on it.
    #[error("Sluice refuses its own decision: {0}. This is a bug: report it with the agent's YAML")]
    Broken(Broken),
    /// An object of ours could not be put into JSON. This is a bug.
    #[error("could not write {0} as JSON")]
    Json(String, #[source] serde_json::Error),
}

impl Error {
    /// A bounded word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Slow { .. } => "Timeout",
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => "Conflict",
                kube::Error::Api(status) if namespace_ends(status) => "NamespaceEnds",
                kube::Error::Api(status) if status.is_forbidden() => "Forbidden",
                kube::Error::Api(status) if status.is_not_found() => "NotFound",
                kube::Error::Api(_) => "Refused",
                _ => "Unreachable",
            },
            Self::Stale(_) => "Conflict",
            Self::Taken(_) => "NameTaken",
            Self::Fenced { .. } => "Fenced",
            Self::NoEndpoints { .. } => "NoEndpoints",
            Self::Served { .. } => "PodsServed",
            Self::NotLeading => "NotLeading",
            Self::LostRevision { .. } => "LostRevision",
            Self::Broken(_) => "PromiseBroken",
            Self::Json(..) => "Bug",
        }
    }

    /// The namespace is being deleted: nothing can be made in it any more, and the agent goes with it.
    pub fn namespace_ends(&self) -> bool {
        self.reason() == "NamespaceEnds"
    }

    /// Whether the next request would fare no better, whatever it is about.
    pub(super) fn is_about_all(&self) -> bool {
        ["Timeout", "Unreachable", "NotLeading", "NamespaceEnds"].contains(&self.reason())
    }

    /// How long to wait before the next try, after so many failures in a row. A launch is never left alone for long.
    pub fn retry_after(&self, failures: u32, launching: bool) -> Duration {
        if self.namespace_ends() {
            return NAMESPACE_ENDS;
        }
        let start = if self.reason() == "Conflict" { 50 } else { 500 };
        let longest = Duration::from_secs(if launching { 2 } else { 30 });
        Duration::from_millis(start << failures.min(6)).min(longest)
    }

    /// Whether it is for a person to mend, after so many failures in a row: what mostly passes by itself is not told at once.
    pub(super) fn lasts(&self, failures: u32) -> bool {
        let passes = matches!(self, Self::NoEndpoints { .. } | Self::Served { .. }) || self.reason() == "NotFound";
        failures > 3 || !passes
    }

    /// What the API server said, without its envelope.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.message.clone()),
                other => Some(other.to_string()),
            },
            other => std::error::Error::source(other).map(ToString::to_string),
        }
    }

    /// What a person must mend, for the conditions; `None` for what passes by itself.
    pub fn mend(&self) -> Option<(String, String)> {
        match self.reason() {
            "NameTaken" | "LostRevision" | "Forbidden" | "Refused" | "PromiseBroken" | "NoEndpoints" | "PodsServed" => {
                let cause = self.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
                Some((self.reason().to_owned(), clip(&format!("{self}{cause}"), 512)))
            }
            _ => None,
        }
    }
}

/// Whether the API server refuses to make an object because its namespace is being deleted.
fn namespace_ends(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(cause: &str) -> Error {
        let status = serde_json::json!({
            "status": "Failure", "code": 403, "reason": "Forbidden", "message": "it is being terminated",
            "details": {"causes": [{"reason": cause, "field": "metadata.namespace", "message": "…"}]},
        });
        let source = Box::new(kube::Error::Api(serde_json::from_value(status).unwrap()));
        Error::Api { verb: "create", what: "ConfigMap a".to_owned(), source }
    }

    #[test]
    fn a_namespace_that_ends_is_nobodys_trouble_and_is_left_alone() {
        let ends = refused("NamespaceTerminating");
        assert!(ends.namespace_ends());
        assert_eq!((ends.mend(), ends.retry_after(0, true)), (None, NAMESPACE_ENDS));
    }

    #[test]
    fn a_service_without_endpoints_is_told_when_it_stays_so() {
        let none = Error::NoEndpoints { service: "a-b2".to_owned(), revision: "b2".to_owned() };
        assert!(!none.lasts(3) && none.lasts(4));
        assert!(none.mend().unwrap().1.starts_with("Service a-b2 has no ready endpoint of b2"));
    }

    #[test]
    fn pods_that_something_still_sends_to_are_told_of_when_it_stays_so() {
        let served = Error::Served { revision: "b2".to_owned(), by: "HTTPRoute a".to_owned() };
        assert!(!served.lasts(3) && served.lasts(4));
        let (reason, message) = served.mend().unwrap();
        assert_eq!(reason, "PodsServed");
        assert!(message.starts_with("the pods of b2 stay, for HTTPRoute a sends to them"), "{message}");
    }

    #[test]
    fn what_somebody_deleted_in_the_middle_of_a_pass_is_told_of_when_it_stays_so() {
        let status = serde_json::json!({"status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
        let source = Box::new(kube::Error::Api(serde_json::from_value(status).unwrap()));
        let gone = Error::Api { verb: "replace", what: "HTTPRoute a".to_owned(), source };
        assert!(!gone.lasts(3) && gone.lasts(4));
    }

    #[test]
    fn whatever_else_is_forbidden_is_told_and_tried_again_soon() {
        let forbidden = refused("Quota");
        assert_eq!(forbidden.mend().unwrap().0, "Forbidden");
        assert!(forbidden.retry_after(9, true) <= Duration::from_secs(2));
    }
}
