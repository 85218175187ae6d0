//! The model check: every order of events, up to a bound, around the *real* [`crate::launch::step`] and the *real* elector.
//!
//! A small world ([`world`]) has an API server, the built-in controllers, a gateway, users, people who decide, freeze windows,
//! metrics and two operators; [`rules`] says how much of each. Its shares are made by a gateway, by pods, or by nobody. An operator ([`operator`]) makes the passes that
//! `controller/reconcile.rs` makes, write by write, and may crash, stand still, be late, lose an answer, read the agent early
//! or see old pods between any two. The search ([`search`]) visits every state once, breadth first, so that a counterexample
//! is a shortest one, and is told step by step. What must hold is in [`crate::launch::promises`] and at the end of [`world`];
//! that every wait ends is tried from a sample of all states by [`rest`]; that the check can fail is shown by [`tests`], which
//! takes the guards away one by one.
//!
//! Time ([`clock`]): instants are kept as ages. A tick is five seconds, everything grows older by it, and what is older than
//! any time-out counts as just that old. So the states are finite though time is not.
//!
//! What it leaves out: contested routes, adopted routes, `match` headers, several agents, pod health triggers.
//! Those are the properties' and the scenarios' work (`launch/tests/`).

mod clock;
mod known;
mod operator;
mod rest;
mod rules;
mod search;
mod tests;
mod world;
