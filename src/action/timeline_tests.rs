//! The timeline, one behaviour a test.

use super::*;

fn plan(chunk_seq: u64, obs_tick: u64, horizon: usize) -> Plan {
    Plan { epoch: 1, chunk_seq, obs_seq: obs_tick.wrapping_add(100), obs_tick, horizon }
}

/// Value of row i, column d of chunk c, so that a wrong row shows.
fn values(chunk: u64, horizon: usize) -> impl Iterator<Item = f32> {
    (0..2 * horizon).map(move |i| (chunk * 1000) as f32 + i as f32)
}

/// Loads chunk `seq`, whose values are those of its number.
fn load(line: &mut Timeline, seq: u64, obs_tick: u64, horizon: usize, now: u64) -> Option<usize> {
    line.load(plan(seq, obs_tick, horizon), now, values(seq, horizon))
}

/// Plays `ticks`; the first value of each row, `None` for a hold.
fn play(line: &mut Timeline, ticks: std::ops::Range<u64>) -> Vec<Option<f32>> {
    ticks
        .map(|tick| {
            let (row, value) = line.due(tick).map(|(row, values)| (row, values[0]))?;
            assert_eq!(row.tick, tick);
            line.mark_executed(tick, &row);
            Some(value)
        })
        .collect()
}

#[test]
fn what_was_not_played_is_not_skipped() {
    let mut line = Timeline::new(2, 8, 20, Join::Replace);
    assert_eq!(line.executing(10), Executing::NOTHING);
    // Seven ticks of waiting for the first chunk: it begins at row 0.
    assert_eq!(load(&mut line, 1, 10, 8, 17), Some(8));
    assert_eq!(line.executing(17), Executing { chunk_seq: 1, index: 0 });
    assert_eq!(play(&mut line, 15..20), [None, None, Some(1000.0), Some(1002.0), Some(1004.0)]);
    // Three ticks of playing: rows 0 to 2 are not played.
    assert_eq!(load(&mut line, 2, 17, 8, 20), Some(5));
    assert_eq!(line.executing(20), Executing { chunk_seq: 2, index: 3 });
    // It plays to its end, and the robot holds for five ticks.
    assert_eq!(play(&mut line, 20..30).iter().flatten().count(), 5);
    assert_eq!(line.played(17, 30), 8);
    // Observed at 22: three rows were played since.
    assert_eq!(load(&mut line, 3, 22, 8, 30), Some(5));
    assert_eq!(line.due(30).unwrap().0.index, 3);
}

#[test]
fn a_newer_chunk_leaves_nothing_of_the_older_one() {
    let mut line = Timeline::new(2, 8, 20, Join::Replace);
    assert_eq!(load(&mut line, 1, 10, 8, 10), Some(8));
    assert_eq!(load(&mut line, 2, 10, 3, 10), Some(3));
    assert_eq!((line.remaining(10), line.remaining(12), line.remaining(13)), (3, 1, 0));
    assert_eq!(line.left_over(11).collect::<Vec<_>>(), [[2002.0, 2003.0], [2004.0, 2005.0]]);
    assert_eq!(play(&mut line, 13..30), [None; 17]);
}

#[test]
fn keep_plays_the_old_chunk_to_its_end() {
    let mut line = Timeline::new(2, 8, 20, Join::Keep);
    assert_eq!(load(&mut line, 1, 0, 8, 0), Some(8));
    play(&mut line, 0..6);
    // Observed at 4, two rows skipped, two ticks more are the old chunk's.
    assert_eq!(load(&mut line, 2, 4, 8, 6), Some(4));
    assert_eq!(line.plan().unwrap().chunk_seq, 2);
    let rows = [1012.0, 1014.0, 2008.0, 2010.0, 2012.0, 2014.0];
    assert_eq!(play(&mut line, 6..13), [&rows.map(Some)[..], &[None]].concat());
    // One that ends before the one that is kept brings nothing.
    assert_eq!(load(&mut line, 3, 13, 8, 13), Some(8));
    assert_eq!(load(&mut line, 4, 13, 8, 13), None);
    assert_eq!(line.plan().unwrap().chunk_seq, 3);
}

#[test]
fn stop_plays_so_many_rows_and_no_more() {
    let mut line = Timeline::new(2, 8, 20, Join::Stop { rows: 3 });
    assert_eq!(load(&mut line, 1, 0, 8, 5), Some(3));
    assert_eq!(play(&mut line, 5..9), [Some(1000.0), Some(1002.0), Some(1004.0), None]);
    assert_eq!(load(&mut line, 2, 5, 8, 9), None, "three were played since");
}

#[test]
fn blends_are_those_of_the_async_client() {
    let mut line = Timeline::new(2, 8, 20, Join::Blend { old: 0.3 });
    assert_eq!(load(&mut line, 1, 0, 8, 0), Some(8));
    assert_eq!(load(&mut line, 2, 0, 4, 0), Some(4));
    let want = |i: f32| Some(0.3 * (1000.0 + 2.0 * i) + 0.7_f32 * (2000.0 + 2.0 * i));
    assert_eq!(line.remaining(0), 4, "old rows beyond the new chunk's end go");
    assert_eq!(line.due(0).unwrap().0.chunk_seq, 2);
    assert_eq!(play(&mut line, 0..3), [want(0.0), want(1.0), want(2.0)]);
}

#[test]
fn what_was_played_is_remembered_for_so_many_ticks() {
    let mut line = Timeline::new(2, 4, 3, Join::Replace);
    assert_eq!(load(&mut line, 7, 0, 4, 0), Some(4));
    play(&mut line, 0..1);
    play(&mut line, 2..3);
    let want = Executed { tick: 2, epoch: 1, chunk_seq: 7, obs_seq: 100, obs_tick: 0, index: 2 };
    assert_eq!(line.executed(2), Some(&want));
    assert_eq!(line.executed(1), None, "held");
    assert_eq!(load(&mut line, 8, 4, 4, 4), Some(4));
    play(&mut line, 4..5);
    assert_eq!(line.executed(0), None, "its slot was used again");
    assert_eq!(line.played(0, 5), 2);
    assert_eq!(load(&mut line, 9, 1, 4, 5), None, "older than is remembered");
}

#[test]
fn a_chunk_that_does_not_fit_changes_nothing() {
    let mut line = Timeline::new(2, 4, 10, Join::Replace);
    assert_eq!(load(&mut line, 1, 5, 4, 5), Some(4));
    let before = line.clone();
    assert_eq!(load(&mut line, 2, 5, 5, 5), None, "too long");
    assert_eq!(load(&mut line, 2, 5, 0, 5), None, "empty");
    assert_eq!(load(&mut line, 2, 6, 4, 5), None, "of the future");
    assert_eq!(line.load(plan(2, 5, 4), 5, values(2, 0)), None, "without values");
    assert_eq!(line.due(5), before.due(5));
    assert_eq!((line.plan(), line.memory_bytes()), (before.plan(), before.memory_bytes()));
    assert_eq!(line.load(plan(2, 5, 4), 5, values(2, 2)), Some(2), "what is there");
    assert_eq!(line.remaining(5), 2);
    line.clear();
    assert_eq!((line.due(5), line.plan()), (None, None));
}

#[test]
fn the_largest_ticks_do_not_overflow() {
    for join in [Join::Replace, Join::Keep, Join::Blend { old: 0.5 }] {
        let mut line = Timeline::new(2, 4, 10, join);
        assert_eq!(load(&mut line, 1, u64::MAX - 3, 4, u64::MAX - 3), Some(4));
        assert_eq!(play(&mut line, u64::MAX - 3..u64::MAX).iter().flatten().count(), 3);
        assert!(line.due(u64::MAX).is_some());
        let entered = load(&mut line, 2, u64::MAX, 4, u64::MAX);
        assert_eq!(entered, (join != Join::Keep).then_some(1), "there is no tick after it");
        assert_eq!(line.left_over(u64::MAX).count(), 1);
    }
    let mut none = Timeline::new(0, 0, 0, Join::Ensemble { coefficient: 0.01 });
    assert_eq!(load(&mut none, 1, 0, 1, 0), None);
    none.mark_executed(5, &Executed::default());
    assert_eq!((none.played(0, 6), none.played(6, 5), none.due(5)), (1, 0, None));
    assert!(Timeline::new(1, 1, u64::MAX, Join::Keep).memory_bytes() < 1 << 25);
}

#[test]
fn a_clock_that_goes_back_starts_anew() {
    for join in [Join::Replace, Join::Keep] {
        let mut line = Timeline::new(2, 4, 10, join);
        assert_eq!(load(&mut line, 1, 100, 4, 100), Some(4));
        assert_eq!(load(&mut line, 2, 3, 4, 3), Some(4));
        assert_eq!((line.due(100), line.due(3).unwrap().0.chunk_seq), (None, 2));
    }
}
