//! Why a revision cannot be made. Every message names the field and the mend.

/// Why a revision cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// A ConfigMap that the pods need does not exist.
    #[error("ConfigMap {config_map:?} ({field}) does not exist: create it, or remove the reference")]
    ConfigMapMissing {
        /// Name of the ConfigMap.
        config_map: String,
        /// Where it is named.
        field: String,
    },
    /// A ConfigMap lacks a key that the pods need.
    #[error("ConfigMap {config_map:?} has no key {key:?} ({field}): add the key, or correct the reference")]
    KeyMissing {
        /// Name of the ConfigMap.
        config_map: String,
        /// The key.
        key: String,
        /// Where it is named.
        field: String,
    },
    /// The frozen contents do not fit into one object.
    #[error(
        "the revision would be {size} KiB with its ConfigMaps (largest: {largest:?}), and at most {limit} KiB can be frozen: \
         move large files into the image or a volume"
    )]
    TooLarge {
        /// How large it would be.
        size: usize,
        /// How large it may be.
        limit: usize,
        /// The largest ConfigMap.
        largest: String,
    },
    /// The template has a volume of the name that a part of `spec.config` needs.
    #[error(
        "spec.template.spec.volumes[{volume}] has the name that spec.config[{config}] needs: rename the volume, or the config"
    )]
    VolumeTaken {
        /// Name of the volume.
        volume: String,
        /// Name of the config.
        config: String,
    },
    /// Something is mounted where a part of `spec.config` should be.
    #[error(
        "spec.config[{config}].mountPath {path:?} is taken on container {container:?}: choose another path, or remove the other mount"
    )]
    MountTaken {
        /// Name of the config.
        config: String,
        /// The path.
        path: String,
        /// The first container.
        container: String,
    },
    /// The template has no containers.
    #[error("spec.template.spec.containers is empty: name the agent's container")]
    NoContainer,
    /// Nothing says which port serves.
    #[error("the agent's Service needs a port: set spec.port, or name a TCP containerPort in the template")]
    NoPort,
    /// A part of the template has the wrong type.
    #[error("{field} is not {wanted}: correct the template")]
    Malformed {
        /// The field.
        field: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The template is no JSON.
    #[error("could not read spec.template")]
    Template(#[source] serde_json::Error),
    /// A stored revision cannot be read.
    #[error("could not read the stored revision")]
    Stored(#[source] serde_json::Error),
    /// A stored revision was written by a Sluice that freezes in another way.
    #[error(
        "the stored revision has scheme {0:?}, which this version of Sluice does not know: use the version that wrote it"
    )]
    Scheme(String),
    /// A stored revision is not what its hash says.
    #[error(
        "the stored revision {0} does not have the contents that its digest names: delete it, so that it is frozen anew"
    )]
    Changed(String),
}

impl RevisionError {
    /// A word for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ConfigMapMissing { .. } => "ConfigMapMissing",
            Self::KeyMissing { .. } => "ConfigMapKeyMissing",
            Self::TooLarge { .. } => "RevisionTooLarge",
            Self::VolumeTaken { .. } => "VolumeNameTaken",
            Self::MountTaken { .. } => "MountPathTaken",
            Self::NoContainer | Self::Malformed { .. } | Self::Template(_) => "TemplateInvalid",
            Self::NoPort => "PortMissing",
            Self::Stored(_) | Self::Scheme(_) | Self::Changed(_) => "RevisionUnreadable",
        }
    }
}
