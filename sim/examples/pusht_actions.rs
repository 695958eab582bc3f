//! Records the expert's actions for tests/golden/pusht.py, which replays them in the real gym-pusht.
//!
//! Run: `cargo run --release -p pathline-sim --example pusht_actions -- OUT.safetensors`, then
//! `tests/golden/pusht.py --expert OUT.safetensors`. Seeds 2000 to 2099. Actions are rounded to
//! float32, the type of gym-pusht's action space, before they are executed.

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::expert::{Expert, ExpertConfig};
use safetensors::serialize_to_file;
use safetensors::tensor::{Dtype, TensorView};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: pusht_actions OUT.safetensors")?;
    let (mut seeds, mut lengths, mut actions) = (Vec::new(), Vec::new(), Vec::new());
    let mut episodes = 0;
    for seed in 2000_u64..2100 {
        let mut env = PushT::reset(seed);
        let mut expert = Expert::new(ExpertConfig::bulk());
        let mut steps = 0_u32;
        let mut solved = false;
        while (steps as usize) < PushT::MAX_STEPS && !solved {
            let action = expert.act(&env).map(|x| x as f32);
            actions.extend(action.map(f32::to_le_bytes).concat());
            solved = env.step(action.map(f64::from)).is_success;
            steps += 1;
        }
        seeds.extend(seed.to_le_bytes());
        lengths.extend(steps.to_le_bytes());
        episodes += 1;
    }
    let views = [
        ("seed", TensorView::new(Dtype::U64, vec![episodes], &seeds)?),
        ("length", TensorView::new(Dtype::U32, vec![episodes], &lengths)?),
        ("action", TensorView::new(Dtype::F32, vec![actions.len() / 8, 2], &actions)?),
    ];
    serialize_to_file(views, None, &PathBuf::from(path))?;
    Ok(())
}
