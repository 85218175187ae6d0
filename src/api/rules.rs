//! The CEL rules that span several fields: the API server refuses a wrong manifest itself, with the field and the mend.
//!
//! Rules of one field stand at the field. Each rule has a good and a bad case in `tests/manifests/`.
//! The API server bounds what a rule may cost before it accepts it: a text of unknown length (`string(number)`, the result
//! of `format`) may be a message, but nothing may be computed with it. Hence the first offender is named, not all.

use kube::core::{Message, Rule};

/// The names that `defaults::standard_metrics` defines, as a CEL list; a test keeps the two equal.
macro_rules! standard {
    () => {
        "['success_rate','error_rate','latency_p95','tool_error_rate','cost_per_success','safety_blocks','policy_bypasses',\
         'unapproved_high_risk_actions','quarantine_rate','approval_wait_median','approval_backlog_age','runs_in_flight']"
    };
}

/// Indexes of all stages but the first (a plan has 16 at most).
macro_rules! later {
    () => {
        "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]"
    };
}

/// Gate or trigger `$x` names a metric that nobody defined.
macro_rules! unknown_metric {
    ($x:literal) => {
        concat!(
            "has(",
            $x,
            ".metric) && !(",
            $x,
            ".metric.name in ",
            standard!(),
            ")",
            " && !(has(self.metrics) && has(self.metrics.define) && self.metrics.define.exists(d, d.name == ",
            $x,
            ".metric.name))",
        )
    };
}

/// Trigger `t` compares shares of events by a multiple alone.
macro_rules! no_floor {
    () => {
        "has(t.metric) && has(t.metric.ratioToStable) && has(t.metric.ratioToStable.above) && !has(t.metric.ratioToStable.floor) \
         && (t.metric.name in ['success_rate','error_rate','tool_error_rate','quarantine_rate'] \
         || has(self.metrics) && has(self.metrics.define) && self.metrics.define.exists(d, d.name == t.metric.name && has(d.ratio)))"
    };
}

/// Stage `s` could never be left: its deadline (its own, the plan's, or 24h) is not after its minimum duration.
macro_rules! never_left {
    () => {
        "has(s.minDuration) && duration(s.minDuration) >= duration(has(s.deadline) ? s.deadline.after \
         : has(self.stageDefaults) && has(self.stageDefaults.deadline) ? self.stageDefaults.deadline.after : '24h')"
    };
}

/// Stages are written, and pods make their shares.
macro_rules! by_pods {
    () => {
        "(has(self.traffic) && has(self.traffic.replicas) && has(self.launch) && has(self.launch.stages))"
    };
}

fn expression(text: &str) -> Message {
    Message::Expression(text.to_owned())
}

/// Shares rise from stage to stage.
pub(super) fn shares_rise() -> Rule {
    Rule::new(concat!(
        "!has(self.stages) || ",
        later!(),
        ".all(i, i >= size(self.stages) || self.stages[i].traffic > self.stages[i-1].traffic)"
    ))
    .message(expression(concat!(
        later!(),
        ".map(i, i < size(self.stages) && self.stages[i].traffic <= self.stages[i-1].traffic",
        r#", 'stages[%d].traffic: %d: stage "%s" is not above "%s" (%d): shares must rise; reorder the stages or raise it'"#,
        ".format([i, self.stages[i].traffic, self.stages[i].name, self.stages[i-1].name, self.stages[i-1].traffic]))[0]",
    )))
    .field_path(".stages")
}

/// A share of some requests comes before a share of all.
pub(super) fn matches_come_first() -> Rule {
    Rule::new(concat!(
        "!has(self.stages) || ",
        later!(),
        ".all(i, i >= size(self.stages) || !has(self.stages[i].match) || has(self.stages[i-1].match))"
    ))
    .message("a stage with match comes after one without, and would take traffic away from the canary: put the stages with match first")
    .field_path(".stages")
}

/// A stage's minimum duration lies before its deadline.
pub(super) fn stages_can_end() -> Rule {
    Rule::new(concat!("!has(self.stages) || !self.stages.exists(s, ", never_left!(), ")"))
        .message(expression(concat!(
            "self.stages.map(s, ", never_left!(),
            r#", 'stage "%s" can never be left: its deadline (24h when nothing says otherwise) is not after its minDuration %s; raise deadline.after or lower minDuration'"#,
            ".format([s.name, s.minDuration]))[0]",
        )))
        .field_path(".stages")
}

/// Names of agents become names of Services.
pub(super) fn agent_name() -> Rule {
    Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name names Services: at most 40 characters, lower case letters, digits and '-', beginning with a letter; rename the agent",
    )
}

/// Names of plans are used in status and in labels.
pub(super) fn plan_name() -> Rule {
    Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name: agents name the plan with at most 63 characters, lower case letters, digits and '-'; rename it",
    )
}

/// A plan is named or written, not both.
pub(super) fn one_plan() -> Rule {
    Rule::new(
        "!has(self.launch) || !has(self.launch.planRef) \
         || !has(self.launch.stages) && !has(self.launch.triggers) && !has(self.launch.stageDefaults) \
         && !has(self.launch.soak) && !has(self.launch.canary)",
    )
    .message(
        "with planRef the plan is the LaunchPlan's: remove stages, triggers, stageDefaults, soak and canary, and write what makes it stricter under tighten",
    )
    .field_path(".launch")
}

/// There is something to tighten.
pub(super) fn only_a_plan_is_tightened() -> Rule {
    Rule::new("!has(self.launch) || !has(self.launch.tighten) || has(self.launch.planRef)")
        .message("tighten makes a LaunchPlan stricter: name it in planRef, or write the whole plan here")
        .field_path(".launch.tighten")
}

/// The agent's Service needs a port.
pub(super) fn has_port() -> Rule {
    Rule::new("has(self.port) || self.template.spec.containers.exists(c, has(c.ports) && size(c.ports) > 0)")
        .message("the agent's Service needs a port: set spec.port, or name a containerPort in the template")
        .field_path(".template")
}

/// Without a route there are no shares: the agent's Service moves in one write, after the last stage.
pub(super) fn shares_need_a_gateway() -> Rule {
    Rule::new(
        "has(self.traffic) || !has(self.launch) || !has(self.launch.stages) \
         || self.launch.stages.all(s, s.traffic == 0)",
    )
    .message(expression(concat!(
        "self.launch.stages.map(s, s.traffic != 0",
        r#", 'stage "%s" asks for %d %% of the traffic: without spec.traffic the Service of the agent moves in one write after the last stage; add spec.traffic.gateway, spec.traffic.httpRoute or spec.traffic.replicas, or set 0'"#,
        ".format([s.name, s.traffic]))[0]",
    )))
    .field_path(".launch")
}

/// With more pods than all the traffic needs, a canary would be no canary.
pub(super) fn pods_make_half_at_most() -> Rule {
    Rule::new(concat!("!", by_pods!(), " || self.launch.stages.all(s, s.traffic <= 50)"))
        .message(expression(concat!(
            "self.launch.stages.map(s, s.traffic > 50",
            r#", 'stage "%s" asks for %d %% of the traffic: with spec.traffic.replicas a share is 50 at most, and the promotion gives the rest; lower it, or use spec.traffic.gateway'"#,
            ".format([s.name, s.traffic]))[0]",
        )))
        .field_path(".launch")
}

/// A Service sees connections, and no headers.
pub(super) fn pods_know_no_requests() -> Rule {
    Rule::new(concat!("!", by_pods!(), " || !self.launch.stages.exists(s, has(s.match))"))
        .message("with spec.traffic.replicas nobody looks at requests: remove match, or use spec.traffic.gateway")
        .field_path(".launch")
}

/// The canary's pods are its share.
pub(super) fn pods_are_the_share() -> Rule {
    Rule::new(
        "!has(self.traffic) || !has(self.traffic.replicas) || !has(self.launch) || !has(self.launch.canary) \
         || !has(self.launch.canary.minReplicas) || self.launch.canary.minReplicas == 1",
    )
    .message("with spec.traffic.replicas the canary's pods are its share: remove canary.minReplicas, or use spec.traffic.gateway")
    .field_path(".launch")
}

/// Gates name metrics that exist.
pub(super) fn gates_name_metrics() -> Rule {
    Rule::new(concat!(
        "!has(self.launch) || !has(self.launch.stages) || !self.launch.stages.exists(s, has(s.gates) && s.gates.exists(g, ",
        unknown_metric!("g"),
        "))"
    ))
    .message(expression(concat!(
        "self.launch.stages.map(s, has(s.gates) && s.gates.exists(g, ", unknown_metric!("g"), "), s.gates.map(g, ", unknown_metric!("g"),
        r#", 'stage "%s": gate "%s" names metric "%s", which is neither standard nor in spec.metrics.define: correct the name or define it'"#,
        ".format([s.name, g.name, g.metric.name]))[0])[0]",
    )))
    .field_path(".launch")
}

/// Triggers name metrics that exist.
pub(super) fn triggers_name_metrics() -> Rule {
    Rule::new(concat!(
        "!has(self.launch) || !has(self.launch.triggers) || !self.launch.triggers.exists(t, ",
        unknown_metric!("t"),
        ")"
    ))
    .message(expression(concat!(
        "self.launch.triggers.map(t, ", unknown_metric!("t"),
        r#", 'trigger "%s" names metric "%s", which is neither standard nor in spec.metrics.define: correct the name or define it'"#,
        ".format([t.name, t.metric.name]))[0]",
    )))
    .field_path(".launch")
}

/// A multiple of a share of events needs a floor.
pub(super) fn rates_need_a_floor() -> Rule {
    Rule::new(concat!(
        "!has(self.launch) || !has(self.launch.triggers) || !self.launch.triggers.exists(t, ",
        no_floor!(),
        ")"
    ))
    .message(expression(concat!(
        "self.launch.triggers.map(t, ", no_floor!(),
        r#", 'trigger "%s": ratioToStable.above on a share of events needs a floor, because twice nothing is nothing: add floor, such as 1%%'"#,
        ".format([t.name]))[0]",
    )))
    .field_path(".launch")
}

/// What was decided is evidence.
pub(super) fn decision_is_immutable() -> Rule {
    Rule::new("self == oldSelf").message("a decision is immutable: create another one")
}

/// An override overrules what it names and nothing else.
pub(super) fn override_names_gates() -> Rule {
    Rule::new("(self.verb == 'Override') == (has(self.gates) && size(self.gates) > 0)")
        .message("gates names what Override overrules: give Override the gates of the current stage, and no other verb")
        .field_path(".gates")
}

/// What may launch again is named.
pub(super) fn retry_names_a_revision() -> Rule {
    Rule::new("self.verb != 'Retry' || has(self.revision)")
        .message("Retry needs revision: name the rejected revision that may launch again")
        .field_path(".revision")
}

/// Going back and holding are about the agent.
pub(super) fn no_hash_voids_it() -> Rule {
    Rule::new("!(self.verb in ['Abort','Pause','Resume']) || !has(self.revision)")
        .message("Abort, Pause and Resume are about the agent, so that no stale hash voids them: remove revision")
        .field_path(".revision")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rules_know_exactly_the_standard_metrics() {
        let defined: Vec<_> = crate::api::standard_metrics().into_iter().map(|metric| metric.name).collect();
        let listed: Vec<_> =
            standard!().split('\'').filter(|part| part.contains(|c: char| c.is_ascii_lowercase())).collect();
        assert_eq!(listed, defined);
    }

    #[test]
    fn the_rules_know_exactly_the_standard_shares_of_events() {
        let shares: Vec<_> = crate::api::standard_metrics()
            .into_iter()
            .filter(|metric| metric.ratio.is_some())
            .map(|metric| metric.name)
            .collect();
        assert_eq!(shares, ["success_rate", "error_rate", "tool_error_rate", "quarantine_rate"]);
        for share in shares {
            assert!(no_floor!().contains(&format!("'{share}'")), "{share}");
        }
    }
}
