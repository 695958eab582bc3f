//! Names of the messages: what a zenoh sample's encoding says, and what an MCAP channel embeds.

/// One message's name and definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// ROS 2 name, as MCAP wants it: `policy_msgs/msg/Observation`.
    pub name: &'static str,
    /// Encoding of a zenoh sample: `application/cdr;` and the name.
    pub encoding: &'static str,
    /// The `.msg` text followed by those that it depends on, in MCAP's `ros2msg` form.
    pub text: &'static str,
}

/// The line between two definitions: 80 signs.
macro_rules! definition {
    ($name:literal, $file:literal) => {
        concat!(
            "================================================================================\nMSG: ",
            $name,
            "\n",
            include_str!(concat!("msg/", $file))
        )
    };
}

/// What a sample on `…/obs` is.
pub const OBSERVATION: Schema = Schema {
    name: "policy_msgs/msg/Observation",
    encoding: "application/cdr;policy_msgs/msg/Observation",
    text: concat!(
        include_str!("msg/Observation.msg"),
        definition!("std_msgs/Header", "Header.msg"),
        definition!("builtin_interfaces/Time", "Time.msg"),
        definition!("policy_msgs/CameraImage", "CameraImage.msg")
    ),
};

/// What a sample on `…/cmd/chunk` is.
pub const ACTION_CHUNK: Schema = Schema {
    name: "policy_msgs/msg/ActionChunk",
    encoding: "application/cdr;policy_msgs/msg/ActionChunk",
    text: concat!(
        include_str!("msg/ActionChunk.msg"),
        definition!("std_msgs/Header", "Header.msg"),
        definition!("builtin_interfaces/Time", "Time.msg"),
        definition!("builtin_interfaces/Duration", "Duration.msg")
    ),
};

/// What a sample on `…/cmd/action` is.
pub const ACTION: Schema = Schema {
    name: "policy_msgs/msg/Action",
    encoding: "application/cdr;policy_msgs/msg/Action",
    text: concat!(
        include_str!("msg/Action.msg"),
        definition!("builtin_interfaces/Time", "Time.msg")
    ),
};

/// The schema that a sample's encoding names, if it is one of ours.
pub fn schema(encoding: &str) -> Option<&'static Schema> {
    [&OBSERVATION, &ACTION_CHUNK, &ACTION].into_iter().find(|s| s.encoding == encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_made_of_the_names() {
        for s in [OBSERVATION, ACTION_CHUNK, ACTION] {
            assert_eq!(s.encoding, format!("application/cdr;{}", s.name));
            assert_eq!(schema(s.encoding), Some(&s));
        }
        assert_eq!(schema("application/cdr"), None);
        assert_eq!(schema("application/cdr;policy_msgs/msg/ActionChunk2"), None);
    }

    #[test]
    fn every_type_that_a_text_uses_is_in_it() {
        for s in [OBSERVATION, ACTION_CHUNK, ACTION] {
            let lines = || s.text.lines().map(|l| l.split('#').next().unwrap_or("").trim());
            let has = |name: &str| lines().any(|l| l == format!("MSG: {name}"));
            let used = lines().filter(|l| !l.starts_with("MSG:")).filter(|l| l.contains('/'));
            let mut n = 0;
            for line in used {
                let name = line.split([' ', '[']).next().unwrap();
                assert!(has(name), "{}: {name} is not defined", s.name);
                n += 1;
            }
            assert!(n > 0);
            let rules: Vec<_> = s.text.lines().filter(|l| l.starts_with('=')).collect();
            assert!(rules.iter().all(|l| l.len() == 80), "{rules:?}");
        }
    }
}
