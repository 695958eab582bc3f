//! config.json of LeRobot's policies with values that cannot be, or that are not those of the weights.

use serde_json::{Value, json};

use crate::Base::{Act, Camera, Keypoints};
use crate::*;

/// Name, change, words of the error.
type Edit = (&'static str, fn(&mut Value), &'static [&'static str]);

fn configs(base: Base, edits: &[Edit]) -> Vec<Case> {
    edits.iter().map(|(name, edit, says)| json_case(base, CONFIG, name, *edit, says)).collect()
}

/// Edits whose error is about the weights: the file that it names is the model.
fn mismatches(base: Base, edits: &[Edit]) -> Vec<Case> {
    let model = |(name, edit, says): &Edit| {
        let edit = *edit;
        let name = format!("{base:?}: {name}");
        let says = [&[MODEL, CONFIG][..], says].concat();
        case(base, name, move |dir| edit_json(&dir.join(CONFIG), edit), &says)
    };
    edits.iter().map(model).collect()
}

fn remove(map: &mut Value, key: &str) {
    map.as_object_mut().unwrap().remove(key).unwrap();
}

/// DiffusionPolicy without cameras.
pub(crate) fn diffusion() -> Vec<Case> {
    let mut all = configs(
        Keypoints,
        &[
            ("an unknown key", |c| c["n_obs_stepz"] = json!(2), &["n_obs_stepz"]),
            ("no type", |c| remove(c, "type"), &["\"type\"", "diffusion"]),
            (
                "a type that is not there yet",
                |c| c["type"] = json!("vqbet"),
                &["vqbet", "diffusion"],
            ),
            ("a type that is a number", |c| c["type"] = json!(1), &["expected a string"]),
            ("no horizon", |c| c["horizon"] = json!(0), &["horizon", "got 0"]),
            ("a negative horizon", |c| c["horizon"] = json!(-16), &["horizon", "-16"]),
            ("half a horizon", |c| c["horizon"] = json!(15.5), &["horizon", "15.5"]),
            ("a horizon of words", |c| c["horizon"] = json!("16"), &["horizon", "\"16\""]),
            ("a horizon without end", |c| c["horizon"] = json!(1u64 << 40), &["horizon", "1024"]),
            ("an odd horizon", |c| c["horizon"] = json!(15), &["multiple of 2^2", "got 15"]),
            ("too many actions", |c| c["n_action_steps"] = json!(16), &["n_action_steps", "15"]),
            ("no actions", |c| c["n_action_steps"] = json!(0), &["n_action_steps", "got 0"]),
            ("no observation", |c| c["n_obs_steps"] = json!(0), &["n_obs_steps", "got 0"]),
            ("too many observations", |c| c["n_obs_steps"] = json!(65), &["n_obs_steps", "got 65"]),
            ("no levels", |c| c["down_dims"] = json!([]), &["down_dims"]),
            ("a level of nothing", |c| c["down_dims"] = json!([8, 0]), &["down_dims"]),
            ("a level of 2^62", |c| c["down_dims"] = json!([8, 1u64 << 62]), &["down_dims"]),
            (
                "a level of 2^64",
                |c| c["down_dims"] = json!([8, 1.8446744073709552e19]),
                &["down_dims"],
            ),
            ("100,000 levels", |c| c["down_dims"] = json!(vec![8; 100_000]), &["down_dims"]),
            ("a level of 12", |c| c["down_dims"] = json!([8, 12]), &["n_groups"]),
            ("no groups", |c| c["n_groups"] = json!(0), &["n_groups"]),
            ("an even kernel", |c| c["kernel_size"] = json!(4), &["kernel_size", "got 4"]),
            ("no kernel", |c| c["kernel_size"] = json!(0), &["kernel_size"]),
            ("a kernel of 2^64 - 1", |c| c["kernel_size"] = json!(u64::MAX), &["kernel_size"]),
            (
                "an odd embedding",
                |c| c["diffusion_step_embed_dim"] = json!(7),
                &["diffusion_step_embed_dim", "7"],
            ),
            (
                "a scheduler",
                |c| c["noise_scheduler_type"] = json!("EULER"),
                &["noise_scheduler_type", "EULER", "DDPM"],
            ),
            ("a prediction", |c| c["prediction_type"] = json!("score"), &["score", "epsilon"]),
            (
                "a schedule",
                |c| c["beta_schedule"] = json!("cosine"),
                &["beta_schedule", "cosine", "squaredcos"],
            ),
            (
                "betas above 1",
                |c| {
                    c["beta_schedule"] = json!("linear");
                    c["beta_end"] = json!(2.0);
                },
                &["beta", "up to 1"],
            ),
            (
                "betas below 0",
                |c| {
                    c["beta_schedule"] = json!("linear");
                    c["beta_start"] = json!(-0.1);
                },
                &["-0.1"],
            ),
            ("a beta of 1e999", |c| c["beta_end"] = json!("1e999"), &["beta_end", "1e999"]),
            ("no table", |c| c["num_train_timesteps"] = json!(0), &["num_train_timesteps"]),
            (
                "a table of 10^12",
                |c| c["num_train_timesteps"] = json!(1_000_000_000_000u64),
                &["num_train_timesteps", "100000"],
            ),
            ("no steps", |c| c["num_inference_steps"] = json!(0), &["steps", "got 0"]),
            ("101 of 100 steps", |c| c["num_inference_steps"] = json!(101), &["100", "101"]),
            ("no clip range", |c| c["clip_sample_range"] = json!(0.0), &["clip_sample_range"]),
            ("an adapter", |c| c["use_peft"] = json!(true), &["use_peft", "merge"]),
            (
                "an objective",
                |c| c["objective"] = json!("energy"),
                &["objective", "energy", "flow"],
            ),
            ("no action", |c| c["output_features"] = json!({}), &["action"]),
            (
                "a second output",
                |c| c["output_features"]["speed"] = json!({"type": "ACTION", "shape": [1]}),
                &["action", "one output"],
            ),
            (
                "an action of no numbers",
                |c| c["output_features"]["action"]["shape"] = json!([0]),
                &["action", "[0]"],
            ),
            (
                "an action of 2^40 numbers",
                |c| c["output_features"]["action"]["shape"] = json!([1u64 << 40]),
                &["action", "[1..256]"],
            ),
            (
                "an action that is a picture",
                |c| c["output_features"]["action"]["type"] = json!("VISUAL"),
                &["action", "Visual"],
            ),
            ("no inputs", |c| c["input_features"] = json!({}), &["observation.state"]),
            (
                "no state",
                |c| remove(&mut c["input_features"], "observation.state"),
                &["observation.state", "missing"],
            ),
            (
                "a state and nothing else",
                |c| remove(&mut c["input_features"], "observation.environment_state"),
                &["camera", "observation.environment_state"],
            ),
            (
                "a state that is a table",
                |c| c["input_features"]["observation.state"]["shape"] = json!([1, 2]),
                &["observation.state", "[1, 2]"],
            ),
            (
                "a feature without a shape",
                |c| remove(&mut c["input_features"]["observation.state"], "shape"),
                &["shape"],
            ),
            (
                "a feature of an unknown type",
                |c| c["input_features"]["observation.state"]["type"] = json!("TOUCH"),
                &["TOUCH", "STATE"],
            ),
            (
                "a language feature",
                |c| {
                    c["input_features"]["task"] = json!({"type": "LANGUAGE", "shape": [1]});
                },
                &["task", "Language"],
            ),
            (
                "a normalisation",
                |c| c["normalization_mapping"]["STATE"] = json!("LOG"),
                &["normalization_mapping", "LOG", "MEAN_STD"],
            ),
            (
                "a name that clears the terminal",
                |c| c["input_features"]["\u{1b}[2J"] = json!({"type": "REWARD", "shape": [1]}),
                &["[2J"],
            ),
        ],
    );
    all.extend(mismatches(
        Keypoints,
        &[
            (
                "another width",
                |c| c["down_dims"] = json!([16, 32]),
                &["of another shape", "[16, 2, 5]"],
            ),
            (
                "more levels",
                |c| c["down_dims"] = json!([8, 16, 32]),
                &["missing", "down_modules.2."],
            ),
            ("fewer levels", |c| c["down_dims"] = json!([8]), &["unexpected", "down_modules.1."]),
            (
                "FiLM without a scale",
                |c| c["use_film_scale_modulation"] = json!(false),
                &["cond_encoder.1.bias: expected [8], got [16]"],
            ),
            (
                "another kernel",
                |c| c["kernel_size"] = json!(3),
                &["expected [8, 2, 3], got [8, 2, 5]"],
            ),
            (
                "a network of 60 GB",
                |c| c["down_dims"] = json!([4096, 8192, 16384]),
                &["of another shape", "16384"],
            ),
        ],
    ));
    // The processors are read before the weights.
    all.push(case(
        Keypoints,
        "another action",
        |dir| {
            edit_json(&dir.join(CONFIG), |c| {
                c["output_features"]["action"]["shape"] = json!([7]);
            });
        },
        &["policy_postprocessor", "action.min", "7"],
    ));
    all.push(case(
        Keypoints,
        "a camera that nothing else knows",
        |dir| {
            edit_json(&dir.join(CONFIG), |c| {
                c["input_features"]["observation.image"] =
                    json!({"type": "VISUAL", "shape": [3, 96, 96]});
            });
        },
        &[MODEL, "missing", "rgb_encoder", "of another shape"],
    ));
    all
}

/// DiffusionPolicy with a camera.
pub(crate) fn cameras() -> Vec<Case> {
    fn image(c: &mut Value) -> &mut Value {
        &mut c["input_features"]["observation.image"]["shape"]
    }
    let mut all = configs(
        Camera,
        &[
            (
                "a grey picture",
                |c| *image(c) = json!([1, 96, 96]),
                &["observation.image", "[1, 96"],
            ),
            ("channels last", |c| *image(c) = json!([96, 96, 3]), &["observation.image", "96, 3]"]),
            ("a picture of no rows", |c| *image(c) = json!([3, 0, 96]), &["observation.image"]),
            (
                "a picture of 2^80 points",
                |c| *image(c) = json!([3, 1u64 << 40, 1u64 << 40]),
                &["observation.image"],
            ),
            ("a crop of nothing", |c| c["crop_shape"] = json!([0, 84]), &["crop_shape"]),
            (
                "a crop beyond it",
                |c| c["crop_shape"] = json!([84, 97]),
                &["crop_shape", "[84, 97]"],
            ),
            ("a crop of three", |c| c["crop_shape"] = json!([84, 84, 84]), &["crop_shape"]),
            ("a resize to nothing", |c| c["resize_shape"] = json!([0, 0]), &["resize_shape"]),
            (
                "a resize to 2^40",
                |c| c["resize_shape"] = json!([1u64 << 40, 1u64 << 40]),
                &["resize_shape"],
            ),
            ("a ratio of 0", |c| c["crop_ratio"] = json!(0.0), &["crop_ratio"]),
            ("a ratio of 2", |c| c["crop_ratio"] = json!(2.0), &["crop_ratio"]),
            (
                "another backbone",
                |c| c["vision_backbone"] = json!("vit_b_16"),
                &["vit_b_16", "resnet18"],
            ),
            (
                "no keypoints",
                |c| c["spatial_softmax_num_keypoints"] = json!(0),
                &["spatial_softmax_num_keypoints"],
            ),
            (
                "keypoints without end",
                |c| c["spatial_softmax_num_keypoints"] = json!(u64::MAX),
                &["spatial_softmax_num_keypoints"],
            ),
            (
                "two cameras of two sizes",
                |c| {
                    c["input_features"]["observation.images.wrist"] =
                        json!({"type": "VISUAL", "shape": [3, 64, 64]});
                },
                &["one shape", "64, 64]"],
            ),
        ],
    );
    all.extend(mismatches(
        Camera,
        &[
            (
                "batch instead of group normalisation",
                |c| c["use_group_norm"] = json!(false),
                &["missing", "running_mean"],
            ),
            (
                "a deeper backbone",
                |c| c["vision_backbone"] = json!("resnet34"),
                &["missing", "backbone.4.2."],
            ),
            (
                "an encoder a camera",
                |c| c["use_separate_rgb_encoder_per_camera"] = json!(true),
                &["missing", "rgb_encoder.0.", "unexpected"],
            ),
            (
                "another crop",
                |c| c["crop_shape"] = json!([64, 64]),
                &["pos_grid: expected [4, 2], got [9, 2]"],
            ),
            (
                "other keypoints",
                |c| c["spatial_softmax_num_keypoints"] = json!(16),
                &["of another shape", "pool.nets.bias: expected [16], got [32]"],
            ),
        ],
    ));
    all
}

/// ACT.
pub(crate) fn act() -> Vec<Case> {
    let mut all = configs(
        Act,
        &[
            ("an unknown key", |c| c["n_headz"] = json!(2), &["n_headz"]),
            ("two observations", |c| c["n_obs_steps"] = json!(2), &["n_obs_steps", "got 2"]),
            ("no chunk", |c| c["chunk_size"] = json!(0), &["chunk_size", "got 0"]),
            ("a chunk without end", |c| c["chunk_size"] = json!(u64::MAX), &["chunk_size"]),
            ("actions beyond it", |c| c["n_action_steps"] = json!(11), &["n_action_steps", "11"]),
            ("no width", |c| c["dim_model"] = json!(0), &["dim_model"]),
            ("no heads", |c| c["n_heads"] = json!(0), &["n_heads"]),
            ("three heads", |c| c["n_heads"] = json!(3), &["multiple of n_heads", "32"]),
            ("2^60 layers", |c| c["n_encoder_layers"] = json!(1u64 << 60), &["n_encoder_layers"]),
            ("no latent", |c| c["latent_dim"] = json!(0), &["latent_dim"]),
            ("glu", |c| c["feedforward_activation"] = json!("glu"), &["feedforward_activation"]),
            (
                "swish",
                |c| c["feedforward_activation"] = json!("swish"),
                &["feedforward_activation", "swish", "relu"],
            ),
            (
                "an ensemble of seven actions",
                |c| c["temporal_ensemble_coeff"] = json!(0.01),
                &["n_action_steps", "temporal_ensemble_coeff"],
            ),
            ("an adapter", |c| c["use_peft"] = json!(true), &["use_peft", "merge"]),
            (
                "a state and nothing else",
                |c| remove(&mut c["input_features"], "observation.environment_state"),
                &["observation.environment_state"],
            ),
            ("no action", |c| c["output_features"] = json!({}), &["action"]),
            ("a backbone", |c| c["vision_backbone"] = json!("vgg"), &["vgg"]),
        ],
    );
    all.extend(mismatches(
        Act,
        &[
            ("another width", |c| c["dim_model"] = json!(64), &["of another shape", "64"]),
            (
                "more layers",
                |c| c["n_encoder_layers"] = json!(3),
                &["missing", "encoder.layers.2."],
            ),
            ("fewer layers", |c| c["n_encoder_layers"] = json!(1), &["unexpected", "layers.1."]),
            (
                "a longer chunk",
                |c| c["chunk_size"] = json!(11),
                &["decoder_pos_embed.weight: expected [11"],
            ),
            ("another latent", |c| c["latent_dim"] = json!(7), &["of another shape"]),
            (
                "256 layers of 16,384",
                |c| {
                    c["dim_model"] = json!(16_384);
                    c["n_encoder_layers"] = json!(256);
                },
                &["missing", "of another shape"],
            ),
        ],
    ));
    all.push(case(
        Act,
        "the weights of another policy",
        |dir| {
            fs::copy(Keypoints.folder().join(MODEL), dir.join(MODEL)).unwrap();
        },
        &[MODEL, "missing", "unexpected", "diffusion.unet"],
    ));
    all
}
