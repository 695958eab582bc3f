//! The steps of a processor pipeline, as data.
//!
//! `policy_preprocessor.json` and `policy_postprocessor.json` hold `{"name", "steps"}`; a step is
//! `{"registry_name", "config", "state_file"}`, or has its class in place of the registry name
//! (LeRobot `processor/pipeline.py`). Names, keys and defaults are LeRobot's, of 0.4.4 and, for
//! relative actions, of 0.6. An unknown step or an unknown key of a step is an error, since it may
//! change the result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::normalize::EPS;
use crate::policy::config::{Features, NormalizationMapping};
use crate::{Error, Result};

/// Most steps of a pipeline; LeRobot's longest have nine.
const MAX_STEPS: usize = 64;
/// The one step of LeRobot that has no registry name.
const IDENTITY: &str = "IdentityProcessorStep";

/// `rename_observations_processor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rename {
    /// New key by raw key.
    pub rename_map: BTreeMap<String, String>,
}

/// `device_processor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Where LeRobot computes; Pathline has its own setting.
    pub device: String,
    /// Type that tensors become; none leaves them f32.
    pub float_dtype: Option<String>,
}

impl Default for Device {
    fn default() -> Self {
        Self { device: "cpu".into(), float_dtype: None }
    }
}

/// `normalizer_processor` and `unnormalizer_processor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalizer {
    /// Epsilon of the formulas.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Observations that are normalised; those that are not here pass through.
    pub features: Features,
    /// Mode by type of feature; identity where it is silent.
    pub norm_map: NormalizationMapping,
    /// The only observations that are normalised, if any are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize_observation_keys: Option<BTreeSet<String>>,
}

fn eps() -> f64 {
    EPS
}

/// `relative_actions_processor` and `absolute_actions_processor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relative {
    /// Whether the newest state is subtracted from, or added to, every action.
    pub enabled: bool,
    /// Parts of the names of joints whose actions stay as they are.
    pub exclude_joints: Vec<String>,
    /// Names of the action's dimensions, which `exclude_joints` is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_names: Option<Vec<String>>,
}

/// `tokenizer_processor`: the task in words becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenizer {
    /// Name of the tokenizer on the hub.
    pub tokenizer_name: Option<String>,
    /// Tokens that the text is padded or cut to.
    pub max_length: usize,
    /// Where the task is.
    pub task_key: String,
    /// `left` or `right`.
    pub padding_side: String,
    /// `max_length`, `longest`, ….
    pub padding: String,
    /// Whether longer text is cut.
    pub truncation: bool,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self {
            tokenizer_name: None,
            max_length: 512,
            task_key: "task".into(),
            padding_side: "right".into(),
            padding: "max_length".into(),
            truncation: true,
        }
    }
}

/// `pi05_prepare_state_tokenizer_processor_step`: the normalised state becomes words of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrepareState {
    /// Length that the state is padded to.
    pub max_state_dim: usize,
    /// Where the task is.
    pub task_key: String,
    /// Whether the state is written into the task at all (LeRobot 0.6).
    pub include_state_in_prompt: bool,
}

impl Default for PrepareState {
    fn default() -> Self {
        Self { max_state_dim: 32, task_key: "task".into(), include_state_in_prompt: true }
    }
}

/// `map_tensor_to_delta_action_dict`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaDict {
    /// Whether the fourth number is the gripper.
    pub use_gripper: bool,
}

impl Default for DeltaDict {
    fn default() -> Self {
        Self { use_gripper: true }
    }
}

/// `map_delta_action_to_robot_action`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaToRobot {
    /// Factor of the displacement.
    pub position_scale: f64,
    /// Displacement below which the robot is told to stay.
    pub noise_threshold: f64,
}

impl Default for DeltaToRobot {
    fn default() -> Self {
        Self { position_scale: 1.0, noise_threshold: 1e-3 }
    }
}

/// A step without options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

/// One step of a pipeline.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// LeRobot's `IdentityProcessorStep`.
    Identity,
    /// Observations get other keys.
    Rename(Rename),
    /// A batch of one; here everything has its batch.
    ToBatch,
    /// Device and type of the tensors.
    Device(Device),
    /// Raw to normalised units; the file of the statistics.
    Normalize(Normalizer, Option<String>),
    /// Normalised to raw units; the file of the statistics.
    Unnormalize(Normalizer, Option<String>),
    /// Actions minus the newest state.
    Relative(Relative),
    /// Actions plus the newest state.
    Absolute(Relative),
    /// The task ends in a newline (SmolVLA, π0).
    NewLine,
    /// The state becomes words (π0.5).
    PrepareState(PrepareState),
    /// The task becomes tokens.
    Tokenizer(Tokenizer),
    /// The action vector becomes a dictionary of displacements.
    DeltaDict(DeltaDict),
    /// A dictionary of displacements becomes one of targets.
    DeltaToRobot(DeltaToRobot),
    /// Observations of the LIBERO simulator become LeRobot's.
    Libero,
}

impl Step {
    /// Registry names that this version knows.
    pub const NAMES: [&str; 17] = [
        "rename_observations_processor",
        "to_batch_processor",
        "to_batch_processor_action",
        "to_batch_processor_observation",
        "to_batch_processor_complementary_data",
        "device_processor",
        "normalizer_processor",
        "unnormalizer_processor",
        "relative_actions_processor",
        "absolute_actions_processor",
        "smolvla_new_line_processor",
        "pi0_new_line_processor",
        "pi05_prepare_state_tokenizer_processor_step",
        "tokenizer_processor",
        "map_tensor_to_delta_action_dict",
        "map_delta_action_to_robot_action",
        "libero_processor",
    ];

    /// The step called `name`, from its options.
    fn parse(
        name: &str,
        options: Map<String, Value>,
        state_file: Option<String>,
    ) -> Result<Self, String> {
        fn typed<T: DeserializeOwned>(options: Map<String, Value>) -> Result<T, String> {
            serde_json::from_value(Value::Object(options)).map_err(|e| format!("config: {e}"))
        }
        if state_file.is_some() && !name.ends_with("normalizer_processor") {
            return Err("expected no state_file".into());
        }
        Ok(match name {
            IDENTITY => {
                typed::<NoOptions>(options)?;
                Self::Identity
            }
            "rename_observations_processor" => Self::Rename(typed(options)?),
            "to_batch_processor"
            | "to_batch_processor_action"
            | "to_batch_processor_observation"
            | "to_batch_processor_complementary_data" => {
                typed::<NoOptions>(options)?;
                Self::ToBatch
            }
            "device_processor" => Self::Device(typed(options)?),
            "normalizer_processor" => Self::Normalize(typed(options)?, state_file),
            "unnormalizer_processor" => Self::Unnormalize(typed(options)?, state_file),
            "relative_actions_processor" => Self::Relative(typed(options)?),
            "absolute_actions_processor" => Self::Absolute(typed(options)?),
            "smolvla_new_line_processor" | "pi0_new_line_processor" => {
                typed::<NoOptions>(options)?;
                Self::NewLine
            }
            "pi05_prepare_state_tokenizer_processor_step" => Self::PrepareState(typed(options)?),
            "tokenizer_processor" => Self::Tokenizer(typed(options)?),
            "map_tensor_to_delta_action_dict" => Self::DeltaDict(typed(options)?),
            "map_delta_action_to_robot_action" => Self::DeltaToRobot(typed(options)?),
            "libero_processor" => {
                typed::<NoOptions>(options)?;
                Self::Libero
            }
            _ => {
                let known = Self::NAMES.join(", ");
                return Err(format!("unknown step; this version knows {known}"));
            }
        })
    }
}

/// Registry name of a class of LeRobot, from `module.Class`.
fn registry_name(class: &str) -> Option<&'static str> {
    let (module, class) = class.rsplit_once('.')?;
    if !(module.starts_with("lerobot.processor") || module.starts_with("lerobot.policies.")) {
        return None;
    }
    Some(match class {
        IDENTITY => IDENTITY,
        "RenameObservationsProcessorStep" => "rename_observations_processor",
        "AddBatchDimensionProcessorStep" => "to_batch_processor",
        "AddBatchDimensionActionStep" => "to_batch_processor_action",
        "AddBatchDimensionObservationStep" => "to_batch_processor_observation",
        "AddBatchDimensionComplementaryDataStep" => "to_batch_processor_complementary_data",
        "DeviceProcessorStep" => "device_processor",
        "NormalizerProcessorStep" => "normalizer_processor",
        "UnnormalizerProcessorStep" => "unnormalizer_processor",
        "RelativeActionsProcessorStep" => "relative_actions_processor",
        "AbsoluteActionsProcessorStep" => "absolute_actions_processor",
        "SmolVLANewLineProcessor" => "smolvla_new_line_processor",
        "Pi0NewLineProcessor" => "pi0_new_line_processor",
        "Pi05PrepareStateTokenizerProcessorStep" => "pi05_prepare_state_tokenizer_processor_step",
        "TokenizerProcessorStep" => "tokenizer_processor",
        "MapTensorToDeltaActionDictStep" => "map_tensor_to_delta_action_dict",
        "MapDeltaActionToRobotActionStep" => "map_delta_action_to_robot_action",
        "LiberoProcessorStep" => "libero_processor",
        _ => return None,
    })
}

/// One pipeline file.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The file.
    pub path: PathBuf,
    /// Its steps with their names, in order.
    pub steps: Vec<(String, Step)>,
}

/// A step as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    registry_name: Option<String>,
    class: Option<String>,
    #[serde(default)]
    config: Map<String, Value>,
    state_file: Option<String>,
    /// Files that a step brings (LeRobot 0.6); the step's config names them too.
    #[serde(default, rename = "artifacts")]
    _artifacts: serde::de::IgnoredAny,
}

impl Pipeline {
    /// Reads a pipeline file.
    ///
    /// # Errors
    /// One error that names the file, the step and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::tensors::files::read_text(path, crate::tensors::files::MAX_TEXT)?;
        Self::parse(path, &text)
    }

    /// Reads the text of a pipeline file.
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let fail = |message: String| Error::config(path, message);
        let pipeline: Value =
            serde_json::from_str(text).map_err(|e| fail(format!("not JSON: {e}")))?;
        let Some(Value::Array(entries)) = pipeline.get("steps") else {
            let message = "\"steps\": expected an object with a list \"steps\", found none";
            return Err(fail(message.into()));
        };
        if entries.len() > MAX_STEPS {
            let got = entries.len();
            return Err(fail(format!("\"steps\": expected at most {MAX_STEPS}, got {got}")));
        }
        let mut steps = Vec::with_capacity(entries.len());
        for (i, entry) in entries.iter().enumerate() {
            let entry = Entry::deserialize(entry).map_err(|e| fail(format!("steps[{i}]: {e}")))?;
            let name = match (entry.registry_name, entry.class) {
                (Some(name), _) => name,
                (None, Some(class)) => match registry_name(&class) {
                    Some(name) => name.to_owned(),
                    None => {
                        let message = format!(
                            "steps[{i}] {class}: unknown class; expected one of lerobot.processor \
                             that this version knows"
                        );
                        return Err(fail(message));
                    }
                },
                (None, None) => {
                    let message = format!("steps[{i}]: expected a registry_name or class");
                    return Err(fail(message));
                }
            };
            let step = Step::parse(&name, entry.config, entry.state_file)
                .map_err(|message| fail(format!("steps[{i}] {name}: {message}")))?;
            steps.push((name, step));
        }
        Ok(Self { path: path.to_owned(), steps })
    }
}
