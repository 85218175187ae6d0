//! The search: breadth first, each state once, a counterexample as a list of steps.
//!
//! Of a visited state only a hash of 64 bits is kept, with the way to it; whole states live in the frontier alone. Where a
//! level is wider than the bound only a part of it goes on, chosen by hash: so a search that cannot be whole still follows
//! some lives to their end, instead of all of them to their beginning.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::known::{Folding, print};
use super::rest::Future;
use super::rules::Rules;
use super::world::{Action, World};
use crate::launch::promises::Broken;

/// How far to search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// So many states of one level go on.
    pub(super) width: usize,
    /// So long at most.
    pub(super) time: Duration,
    /// So many bytes of memory at most, of the whole process.
    pub(super) memory: u64,
    /// From one state of so many it is tried whether the world comes to rest.
    pub(super) rest: u64,
}

/// Why not every state was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// From this depth on levels were too wide.
    Thinned(usize),
    Time,
    Memory,
    /// A promise was broken.
    Broken,
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) transitions: usize,
    pub(super) depth: usize,
    /// `None`: every state within the budget of events was visited.
    pub(super) cut: Option<Cut>,
    pub(super) rests: usize,
    /// The longest way to rest, in passes.
    pub(super) longest: usize,
    pub(super) time: Duration,
    /// Bytes of memory, of the whole process.
    pub(super) memory: u64,
    pub(super) counterexample: Option<(Broken, Vec<Action>)>,
}

/// Visits every state that the rules allow, until a promise is broken or a bound is reached.
pub(super) fn search(rules: Rules, bounds: Bounds) -> Found {
    let mut search = Search {
        ways: HashMap::default(),
        begun: Instant::now(),
        bounds,
        visited: 0,
        transitions: 0,
        rests: 0,
        longest: 0,
        memory: memory(),
    };
    let first = World::new(rules);
    let here = print(&first);
    search.ways.insert(here, (here, 0));
    let (mut frontier, mut depth, mut cut, mut counterexample) = (vec![(here, first)], 0, None, None);
    while !frontier.is_empty() && !matches!(cut, Some(Cut::Time | Cut::Memory | Cut::Broken)) {
        let mut next = Vec::new();
        for (here, world) in frontier.drain(..) {
            if let Some(reached) = search.bound() {
                cut = Some(reached);
                break;
            }
            if let Err((broken, last)) = search.visit(here, &world, &mut next) {
                (cut, counterexample) = (Some(Cut::Broken), Some((broken, search.way(rules, here, last))));
                break;
            }
        }
        if next.len() > bounds.width {
            next.select_nth_unstable_by_key(bounds.width, |(here, _)| *here);
            next.truncate(bounds.width);
            next.shrink_to_fit();
            cut = cut.or(Some(Cut::Thinned(depth)));
        }
        frontier = next;
        depth += 1;
    }
    search.memory = search.memory.max(memory());
    let Search { ways, begun, transitions, rests, longest, memory, .. } = search;
    let (states, time) = (ways.len(), begun.elapsed());
    Found { states, transitions, depth, cut, rests, longest, time, memory, counterexample }
}

struct Search {
    /// For each visited state the one it was reached from, and by which of its actions. The first one is its own.
    ways: HashMap<u64, (u64, u8), Folding>,
    begun: Instant,
    bounds: Bounds,
    visited: usize,
    transitions: usize,
    rests: usize,
    longest: usize,
    memory: u64,
}

impl Search {
    fn bound(&mut self) -> Option<Cut> {
        if self.begun.elapsed() > self.bounds.time {
            return Some(Cut::Time);
        }
        self.visited += 1;
        if self.visited.is_multiple_of(1024) {
            self.memory = self.memory.max(memory());
        }
        (self.memory > self.bounds.memory).then_some(Cut::Memory)
    }

    fn visit(
        &mut self,
        here: u64,
        world: &World,
        next: &mut Vec<(u64, World)>,
    ) -> Result<(), (Broken, Option<Action>)> {
        if here.is_multiple_of(self.bounds.rest) {
            let future = Future::ALL[usize::try_from(here / self.bounds.rest % 4).unwrap()];
            self.rests += 1;
            self.longest = self.longest.max(world.comes_to_rest(future).map_err(|broken| (broken, None))?);
        }
        for (index, action) in world.actions().into_iter().enumerate() {
            self.transitions += 1;
            let mut then = world.clone();
            then.happen(&action).map_err(|broken| (broken, Some(action)))?;
            let there = print(&then);
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.ways.entry(there) {
                vacant.insert((here, u8::try_from(index).unwrap()));
                next.push((there, then));
            }
        }
        Ok(())
    }

    /// The steps that lead to a state, and the last one.
    fn way(&self, rules: Rules, mut at: u64, last: Option<Action>) -> Vec<Action> {
        let mut indices = Vec::new();
        while let Some((before, index)) = self.ways.get(&at).filter(|(before, _)| *before != at) {
            indices.push(usize::from(*index));
            at = *before;
        }
        let mut world = World::new(rules);
        let mut way = Vec::new();
        for index in indices.into_iter().rev() {
            let action = world.actions().swap_remove(index);
            world.happen(&action).unwrap();
            way.push(action);
        }
        way.into_iter().chain(last).collect()
    }
}

/// Bytes of memory that the process holds, as Linux tells.
fn memory() -> u64 {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = told.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}

/// A counterexample for people: what happened, and what it did to status, route, Service and pods.
pub(super) fn tell(rules: Rules, way: &[Action]) -> String {
    let mut world = World::new(rules);
    let mut told = Vec::new();
    for (number, action) in way.iter().enumerate() {
        let broken = world.happen(action).err().map(|broken| format!("  <- {broken}")).unwrap_or_default();
        told.push(format!("{:>3}. {:<22} {}{broken}", number + 1, format!("{action:?}"), world.line()));
    }
    told.join("\n")
}

impl World {
    fn line(&self) -> String {
        let stable = self.state.stable.as_ref().map_or("-", |stable| &stable.revision);
        let launch = self.state.launch.as_ref().map_or_else(
            || "no launch".to_owned(),
            |it| format!("{} {} {:?} {} {}%", it.id, it.revision, it.phase, it.stage_name, it.weight),
        );
        let route = self.route.as_ref().as_ref().map_or_else(|| "none".to_owned(), |it| format!("{:?}", it.shares));
        let pods: Vec<_> =
            self.deployments.iter().map(|(name, pods)| format!("{name} {}/{}", pods.ready, pods.size)).collect();
        let both = self.service.split.as_ref().map(|split| format!(" and {} at {}%", split.canary, split.weight));
        let service = self.service.revision.as_deref().unwrap_or("-").to_owned() + &both.unwrap_or_default();
        format!("| {stable} | {launch} | route {route} | service {service} | {}", pods.join(", "))
    }
}
