//! The demo's GIF: what is to be seen is kept during the run and drawn after it, so that no tick waits
//! for a picture and the latencies are those of the loop alone.
//!
//! A frame a step: goal, T, agent, target, the rest of the current chunk as a path, and each of its
//! rows on the way from noise to action as a thin line. At the first step of an episode time stands
//! still while the noise flows to the chunk. Success gets a pause.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use pathline::node::{ChunkTrace, Tick};
use pathline_sim::pusht::PushT;
use pathline_sim::pusht::render::{Overlay, scene};

use super::gif::GifWriter;

/// Side of the picture, px.
const SIZE: u32 = 320;
/// Frames a second: twice real time.
const FPS: f64 = 20.0;
/// Frames in which the first chunk of an episode grows out of the noise.
const FLOW_FRAMES: usize = 10;
/// How long the end of an episode stays on screen, in seconds.
const END_PAUSE: f64 = 1.2;

struct Shot {
    env: PushT,
    overlay: Overlay,
    pause: f64,
}

/// A GIF in the making.
pub(crate) struct Pictures {
    path: PathBuf,
    shots: Vec<Shot>,
    traces: Receiver<ChunkTrace>,
    trace: Option<ChunkTrace>,
    episodes: u32,
}

impl Pictures {
    /// Will draw the first `episodes` episodes into `path`.
    pub(crate) fn new(path: &Path, episodes: u32, traces: Receiver<ChunkTrace>) -> Self {
        Self { path: path.to_owned(), shots: Vec::new(), traces, trace: None, episodes }
    }

    /// Adds what happened at one step.
    pub(crate) fn add(&mut self, tick: &Tick<'_>) {
        while let Ok(trace) = self.traces.try_recv() {
            self.trace = Some(trace);
        }
        if tick.episode >= self.episodes {
            return;
        }
        let chunk = tick.plan.as_ref().map(|(_, rows)| rows.clone()).unwrap_or_default();
        let answered = tick.plan.as_ref().map(|(obs_tick, _)| *obs_tick);
        let trails = match &self.trace {
            Some(trace) if Some(trace.obs_tick) == answered => trails(&trace.states),
            _ => Vec::new(),
        };
        let what = if tick.outcome.is_success {
            "success".to_owned()
        } else {
            format!("coverage {:.0} %", 100.0 * tick.outcome.coverage)
        };
        let caption = format!("seed {}  step {}  {what}", tick.seed, tick.step + 1);
        if tick.step == 0 {
            for frame in 1..=FLOW_FRAMES {
                let share = frame as f64 / FLOW_FRAMES as f64;
                let grown: Vec<_> = trails.iter().map(|trail| cut(trail, share)).collect();
                let overlay = Overlay {
                    action: None,
                    chunk: Vec::new(),
                    trails: grown,
                    caption: format!("seed {}  noise flows to a chunk", tick.seed),
                };
                self.keep(tick.env, overlay, 0.0);
            }
        }
        let action = match tick.commanded.action.as_slice() {
            [x, y] => Some([f64::from(*x), f64::from(*y)]),
            _ => None,
        };
        let pause = if tick.done { END_PAUSE } else { 0.0 };
        self.keep(tick.env, Overlay { action, chunk, trails, caption }, pause);
    }

    fn keep(&mut self, env: &PushT, overlay: Overlay, pause: f64) {
        self.shots.push(Shot { env: env.clone(), overlay, pause });
    }

    /// Draws and writes everything; no file if there was nothing to see.
    pub(crate) fn finish(self) -> pathline::Result<()> {
        if self.shots.is_empty() {
            return Ok(());
        }
        let mut gif = GifWriter::create(&self.path, SIZE, SIZE, FPS)?;
        for shot in &self.shots {
            gif.frame(&scene(&shot.env, SIZE, &shot.overlay).rgb)?;
            if shot.pause > 0.0 {
                gif.pause(shot.pause)?;
            }
        }
        gif.finish()
    }
}

/// Row i's way through the sampler's states.
fn trails(states: &[Vec<f32>]) -> Vec<Vec<[f64; 2]>> {
    let rows = states.first().map_or(0, |state| state.len() / 2);
    (0..rows)
        .map(|row| {
            states
                .iter()
                .filter_map(|state| match state.get(2 * row..2 * row + 2) {
                    Some([x, y]) => Some([f64::from(*x), f64::from(*y)]),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

/// The first `share` of a trail's segments, the last one cut.
fn cut(trail: &[[f64; 2]], share: f64) -> Vec<[f64; 2]> {
    let segments = trail.len().saturating_sub(1);
    let reach = share.clamp(0.0, 1.0) * segments as f64;
    let whole = reach.floor() as usize;
    let mut out: Vec<[f64; 2]> = trail.iter().take(whole + 1).copied().collect();
    if let (Some(from), Some(to)) = (trail.get(whole), trail.get(whole + 1)) {
        let part = reach - whole as f64;
        out.push([from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1])]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_follows_its_row_and_is_cut_by_share() {
        let states =
            vec![vec![0.0, 0.0, 9.0, 9.0], vec![4.0, 0.0, 9.0, 8.0], vec![4.0, 2.0, 9.0, 7.0]];
        let all = trails(&states);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0]]);
        assert_eq!(cut(&all[0], 0.25), [[0.0, 0.0], [2.0, 0.0]]);
        assert_eq!(cut(&all[0], 0.75), [[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]]);
        assert_eq!(cut(&all[0], 1.0), all[0]);
        assert!(cut(&[], 0.5).is_empty());
    }
}
