//! The PushT expert over pipes, so that another simulator can be driven by it.
//!
//! One line in: `agent_x agent_y agent_vx agent_vy block_x block_y block_angle` (px, px/s, rad), or
//! `reset` before a new episode. One line out per state: `action_x action_y` (absolute target, px).
#![allow(clippy::print_stdout, reason = "the actions are the program's output")]

use std::io::{BufRead, Error, ErrorKind, Write};

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{Expert, ExpertConfig};

fn main() -> Result<(), Error> {
    let mut expert = Expert::new(ExpertConfig::default());
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "reset" {
            expert.reset();
            continue;
        }
        let x: Vec<f64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let &[ax, ay, vx, vy, bx, by, angle] = x.as_slice() else {
            let message = format!("expected 7 numbers or `reset`, got {line:?}");
            return Err(Error::new(ErrorKind::InvalidData, message));
        };
        let env = PushT::at_rest([ax, ay, bx, by, angle]).with_agent_velocity([vx, vy]);
        let action = expert.act(&env);
        writeln!(out, "{} {}", action[0], action[1])?;
        out.flush()?;
    }
    Ok(())
}
