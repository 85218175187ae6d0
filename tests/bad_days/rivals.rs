//! Two agents ask for the same host name. Whoever had it keeps it; the other is told, and launches when it may.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use sluice::traffic::HTTPRoute;

use crate::day::{Day, NAME, SOON, climbs_at, is, launch, plan, runs, stable, tells};
use crate::fake::Mood;

#[tokio::test]
async fn an_agent_that_asks_for_anothers_host_name_is_told_whose_it_is_and_serves_under_a_name_of_its_own()
-> anyhow::Result<()> {
    let owner = Day::begin("owner", plan("10m")).await?;
    let mut rival = Day::dawn("rival", plan("10m")).await?;
    rival.agent["spec"]["traffic"]["gateway"]["hostnames"] = json!([owner.host()]);
    rival.prompt("the first", &json!({})).await?;
    rival.apply().await?;
    let told = rival.until("told", SOON, |agent| is(agent, "Stalled", "True", "HostnameTaken")).await?;
    let (name, theirs) = (format!("host name {}", owner.host()), format!("HTTPRoute {}/{NAME}'s", owner.namespace));
    let mend = "which is older: choose another host name, or remove that route";
    tells(&told, "Stalled", &[&name, "Gateway infra/public", &theirs, mend])?;
    ensure!(launch(&owner.now().await?).is_none_or(|launch| !runs(launch)), "the owner's launch began anew");

    let host = rival.host();
    rival.edit(|spec| spec["traffic"]["gateway"]["hostnames"] = json!([host])).await?;
    let mended = rival.until("launched", SOON, |agent| is(agent, "Launched", "True", "")).await?;
    tells(&mended, "Stalled", &["False"])?;
    rival.end().await?;
    owner.end().await // not one of its requests was lost meanwhile
}

#[tokio::test]
async fn a_launch_is_held_when_its_host_name_is_taken_and_goes_on_when_the_older_route_is_gone() -> anyhow::Result<()> {
    let owner = Day::begin("older", plan("10m")).await?;
    let mut rival = Day::begin("younger", plan("10m")).await?;
    let before = rival.stable().await?;
    rival.mood(Mood::Empty);
    rival.prompt("the second", &json!({})).await?;
    rival.until_at(50).await?;
    let (own, theirs) = (rival.host(), owner.host());
    rival.edit(|spec| spec["traffic"]["gateway"]["hostnames"] = json!([own, theirs])).await?;
    let held = rival.until("held", SOON, |agent| is(agent, "Stalled", "True", "HostnameTaken")).await?;
    tells(&held, "Progressing", &["held: host name", &owner.host(), "choose another host name"])?;
    rival.mood(Mood::Good(1.0));
    rival.stays("held at 50%", Duration::from_secs(6), |agent| climbs_at(agent, 50)).await?;

    owner.delete::<HTTPRoute>(NAME).await?; // it comes back, and is the younger one then
    let deleted = Instant::now();
    rival.until("launched", SOON, |agent| stable(agent) != before && is(agent, "Launched", "True", "")).await?;
    println!("launched {:?} after the older route was gone", deleted.elapsed());
    let told = owner.until("told", SOON, |agent| is(agent, "Stalled", "True", "HostnameTaken")).await?;
    tells(&told, "Stalled", &[&format!("HTTPRoute {}/{NAME}'s", rival.namespace)])?;
    rival.end_with_losses().await?; // its second name was another's
    owner.end_with_losses().await
}
