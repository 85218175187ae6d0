use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn written(schedule: &str, zone: Option<&str>, hours: u64) -> FreezeWindow {
    FreezeWindow {
        name: "peak-week".to_owned(),
        schedule: schedule.to_owned(),
        time_zone: zone.map(str::to_owned),
        duration: Duration::from_hours(hours).into(),
    }
}

fn window(schedule: &str, zone: Option<&str>, hours: u64) -> Window {
    Window::parse("freeze[peak-week]", &written(schedule, zone, hours)).unwrap()
}

fn open_until(window: &Window, now: &str) -> Option<String> {
    Freeze::at(std::slice::from_ref(window), at(now)).open.map(|frozen| frozen.until.to_string())
}

#[test]
fn a_weekend_is_frozen_from_friday_evening_on_the_wall_clock_of_its_zone() {
    let weekend = window("0 18 * * FRI", Some("Europe/Berlin"), 62);
    assert_eq!(open_until(&weekend, "2026-11-20T16:59:59.999Z"), None);
    assert_eq!(open_until(&weekend, "2026-11-20T17:00:00Z").as_deref(), Some("2026-11-23T07:00:00Z"));
    assert_eq!(open_until(&weekend, "2026-11-23T06:59:59.999Z").as_deref(), Some("2026-11-23T07:00:00Z"));
    assert_eq!(open_until(&weekend, "2026-11-23T07:00:00Z"), None);
    let closed = Freeze::at(&[weekend], at("2026-11-23T07:00:00Z"));
    assert_eq!(closed.changes_at, Some(at("2026-11-27T17:00:00Z")));
}

#[test]
fn without_a_zone_the_schedule_is_utc() {
    assert_eq!(
        open_until(&window("0 18 * * *", None, 1), "2026-07-01T18:30:00Z").as_deref(),
        Some("2026-07-01T19:00:00Z")
    );
}

/// On 2027-03-28 the clocks of Berlin go from 02:00 to 03:00, at 01:00 UTC.
#[test]
fn a_time_that_the_clocks_skip_opens_the_window_when_they_jump() {
    let skipped = window("30 2 * * *", Some("Europe/Berlin"), 2);
    assert_eq!(open_until(&skipped, "2027-03-28T00:59:59Z"), None);
    assert_eq!(open_until(&skipped, "2027-03-28T01:00:00Z").as_deref(), Some("2027-03-28T03:00:00Z"));
    assert_eq!(open_until(&skipped, "2027-03-29T00:30:00Z").as_deref(), Some("2027-03-29T02:30:00Z"), "the next day");
    let before = window("0 1 * * *", Some("Europe/Berlin"), 3);
    assert_eq!(
        open_until(&before, "2027-03-28T02:59:59Z").as_deref(),
        Some("2027-03-28T03:00:00Z"),
        "hours that elapse"
    );
}

/// On 2026-10-25 the clocks of Berlin go from 03:00 back to 02:00, at 01:00 UTC.
#[test]
fn a_time_that_the_clocks_show_twice_opens_the_window_the_first_time_only() {
    let twice = window("30 2 * * *", Some("Europe/Berlin"), 1);
    assert_eq!(open_until(&twice, "2026-10-25T00:29:59Z"), None);
    assert_eq!(open_until(&twice, "2026-10-25T00:30:00Z").as_deref(), Some("2026-10-25T01:30:00Z"));
    assert_eq!(open_until(&twice, "2026-10-25T01:10:00Z").as_deref(), Some("2026-10-25T01:30:00Z"), "02:10 again");
    assert_eq!(open_until(&twice, "2026-10-25T01:30:00Z"), None, "02:30 again");
    let half_past_two = window("30 2 * * *", Some("Europe/Berlin"), 1);
    let until = open_until(&half_past_two, "2026-10-25T01:00:00Z");
    assert_eq!(until.as_deref(), Some("2026-10-25T01:30:00Z"), "the very instant of the change");
    let closed = Freeze::at(&[twice], at("2026-10-25T01:30:00Z"));
    assert_eq!(closed.changes_at, Some(at("2026-10-26T01:30:00Z")));
}

#[test]
fn windows_that_meet_are_one_and_the_one_that_closes_last_is_named() {
    let day = window("0 8 * * *", None, 2);
    let other = FreezeWindow { name: "evening".to_owned(), ..written("30 9 * * *", None, 3) };
    let evening = Window::parse("freeze[evening]", &other).unwrap();
    let frozen =
        |now: &str| Freeze::at(&[day.clone(), evening.clone()], at(now)).open.map(|f| f.words()).unwrap_or_default();
    assert_eq!(frozen("2026-11-21T08:00:00Z"), "frozen by window peak-week until 2026-11-21T12:30:00Z");
    assert_eq!(frozen("2026-11-21T09:30:00Z"), "frozen by window evening until 2026-11-21T12:30:00Z");
    assert_eq!(frozen("2026-11-21T12:30:00Z"), "");
}

#[test]
fn a_window_that_never_closes_ends_the_search() {
    let always = window("* * * * *", Some("America/New_York"), 1);
    let frozen = Freeze::at(&[always], at("2026-11-21T08:00:30Z"));
    assert!(frozen.open.is_some() && frozen.changes_at > Some(at("2026-11-21T09:00:00Z")), "{frozen:?}");
}

#[test]
fn a_window_that_cannot_be_understood_names_the_field_and_the_mend() {
    let wrong = |window: &FreezeWindow| Window::parse("spec.launch.freeze[peak-week]", window).unwrap_err().to_string();
    for (schedule, zone, mend) in [
        ("0 25 * * *", None, "spec.launch.freeze[peak-week].schedule: \"0 25 * * *\" is not a schedule of cron"),
        ("0 18 * *", None, "write five fields"),
        ("0 0 18 * * FRI", None, "write five fields"),
        ("@daily", None, "write five fields"),
        ("0 18 * * FRY", None, "is not a schedule of cron"),
        ("0 0 30 2 *", None, "never comes, such as 30 February"),
        ("0 18 * * *", Some("Europe/Berln"), "timeZone: \"Europe/Berln\" is not a time zone: write its IANA name"),
        ("0 18 * * *", Some("CEST"), "is not a time zone"),
    ] {
        let error = wrong(&written(schedule, zone, 1));
        assert!(error.contains(mend), "{schedule} {zone:?}: {error}");
    }
    assert!(wrong(&written("0 18 * * *", None, 0)).contains("duration must be from 1m to 2160h"));
    assert!(wrong(&written("0 18 * * *", None, 2161)).contains("duration must be from 1m to 2160h"));
}

const SCHEDULES: [&str; 8] = [
    "30 2 * * *",
    "0 * * * *",
    "15,45 1-3 * * *",
    "0 18 * * FRI",
    "0 0 1 * *",
    "0 3 * 3,10,11 SUN",
    "*/7 2 * * *",
    "59 23 L * *",
];
const ZONES: [&str; 6] =
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca"];

proptest! {
    #![proptest_config(crate::launch::tests::cases(400))]

    /// Instants lie around the changes of the clocks in 2026 and 2027, where mistakes would be.
    #[test]
    fn between_two_changes_nothing_changes_and_at_each_something_does(
        windows in prop::collection::vec((0..SCHEDULES.len(), 0..ZONES.len(), 1u64..80), 1..4),
        around in prop::sample::select(vec!["2026-10-24T20:00:00Z", "2026-10-31T20:00:00Z", "2027-03-13T20:00:00Z", "2027-03-27T20:00:00Z", "2026-04-03T20:00:00Z"]),
        offset in 0i64..400_000,
    ) {
        let windows: Vec<_> = windows.iter().map(|(s, z, minutes)| {
            let mut written = written(SCHEDULES[*s], Some(ZONES[*z]), 1);
            written.duration = Duration::from_mins(*minutes * 3).into();
            Window::parse("w", &written).unwrap()
        }).collect();
        let now = after(at(around), Duration::from_secs(offset.unsigned_abs()));
        let seen = Freeze::at(&windows, now);
        let change = seen.changes_at.unwrap();
        prop_assert!(change > now);
        prop_assume!(seen.open.is_none() || change.duration_since(now).as_hours() < 24); // windows that never close
        let span = change.duration_since(now);
        for part in 1..20 {
            let between = now + span * part / 20;
            let then = Freeze::at(&windows, between);
            prop_assert_eq!(then.open.is_some(), seen.open.is_some(), "at {} of {} to {}", between, now, change);
            prop_assert_eq!(then.changes_at, seen.changes_at, "at {}", between);
        }
        let before = Freeze::at(&windows, change - Duration::from_millis(1));
        prop_assert_eq!(before.open.is_some(), seen.open.is_some());
        prop_assert!(Freeze::at(&windows, change).open.is_some() != seen.open.is_some(), "nothing changes at {}", change);
    }

    /// The clocks show an opening time: then the window is open, in whichever of two equal hours for the first of them.
    #[test]
    fn a_window_is_open_when_the_clocks_first_show_its_time(
        schedule in 0..SCHEDULES.len(), zone in 0..ZONES.len(), minute in 0i64..600_000,
    ) {
        let window = window(SCHEDULES[schedule], Some(ZONES[zone]), 1);
        let now = Timestamp::from_second(1_790_000_000 / 60 * 60 + minute * 60).unwrap();
        let shown = window.zone.to_datetime(now);
        let first = window.instant(shown) == now;
        if first && window.schedule.is_time_matching(&shown).unwrap() {
            prop_assert!(Freeze::at(&[window], now).open.is_some(), "closed at {} ({})", now, shown);
        }
    }
}
