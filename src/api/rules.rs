//! The CEL rules that span several fields: the API server refuses a wrong manifest itself, with the field and the mend.
//!
//! Rules of one field stand at the field. Each rule has a good and a bad case in `tests/manifests/`.

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

/// Shares rise from stage to stage.
pub(super) fn shares_rise() -> Rule {
    Rule::new(concat!(
        "!has(self.stages) || ",
        later!(),
        ".all(i, i >= size(self.stages) || self.stages[i].traffic > self.stages[i-1].traffic)"
    ))
    .message(Message::Expression(
        concat!(
            later!(),
            ".filter(i, i < size(self.stages) && self.stages[i].traffic <= self.stages[i-1].traffic)",
            r#".map(i, 'stages[' + string(i) + '].traffic: ' + string(self.stages[i].traffic) + ': stage "' + self.stages[i].name"#,
            r#" + '" is not above "' + self.stages[i-1].name + '" (' + string(self.stages[i-1].traffic)"#,
            r#" + '): shares must rise; reorder the stages or raise it').join('; ')"#,
        )
        .to_owned(),
    ))
    .field_path(".stages")
}

/// Names of agents become names of Services.
pub(super) fn agent_name() -> Rule {
    Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name names Services: at most 40 characters, lower case letters, digits and '-', beginning with a letter; rename the agent",
    )
}

/// The agent's Service needs a port.
pub(super) fn has_port() -> Rule {
    Rule::new("has(self.port) || self.template.spec.containers.exists(c, has(c.ports) && size(c.ports) > 0)")
        .message("the agent's Service needs a port: set spec.port, or name a containerPort in the template")
        .field_path(".template")
}

/// Without a gateway there are no shares between 0 and 100.
pub(super) fn shares_need_a_gateway() -> Rule {
    Rule::new(
        "has(self.traffic) && has(self.traffic.gateway) || !has(self.launch) || !has(self.launch.stages) \
         || self.launch.stages.all(s, s.traffic == 0 || s.traffic == 100)",
    )
    .message("without spec.traffic.gateway there are no shares: a stage's traffic is 0 or 100; add the gateway or change the stages")
    .field_path(".launch")
}

/// Gates name metrics that exist.
pub(super) fn gates_name_metrics() -> Rule {
    Rule::new(concat!(
        "!has(self.launch) || !has(self.launch.stages) || self.launch.stages.all(s, !has(s.gates) || s.gates.all(g, !has(g.metric) || g.metric.name in ",
        standard!(),
        " || has(self.metrics) && has(self.metrics.define) && self.metrics.define.exists(d, d.name == g.metric.name)))"
    ))
    .message("a gate names a metric that is neither standard nor in spec.metrics.define: correct the name or define it")
    .field_path(".launch")
}

/// Triggers name metrics that exist.
pub(super) fn triggers_name_metrics() -> Rule {
    Rule::new(concat!(
        "!has(self.launch) || !has(self.launch.triggers) || self.launch.triggers.all(t, !has(t.metric) || t.metric.name in ",
        standard!(),
        " || has(self.metrics) && has(self.metrics.define) && self.metrics.define.exists(d, d.name == t.metric.name))"
    ))
    .message("a trigger names a metric that is neither standard nor in spec.metrics.define: correct the name or define it")
    .field_path(".launch")
}

/// A multiple of a share of events needs a floor.
pub(super) fn rates_need_a_floor() -> Rule {
    Rule::new(
        "!has(self.launch) || !has(self.launch.triggers) || self.launch.triggers.all(t, !has(t.metric) || !has(t.metric.ratioToStable) \
         || !has(t.metric.ratioToStable.above) || has(t.metric.ratioToStable.floor) \
         || !(t.metric.name in ['success_rate','error_rate','tool_error_rate','quarantine_rate'] \
         || has(self.metrics) && has(self.metrics.define) && self.metrics.define.exists(d, d.name == t.metric.name && has(d.ratio))))",
    )
    .message("ratioToStable.above on a share of events needs a floor, because twice nothing is nothing: add floor, such as 1%")
    .field_path(".launch")
}
