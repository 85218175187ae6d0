//! Real logins: a user with a certificate that the cluster's authority signed, a ServiceAccount with a token that the API
//! server issued. Nothing of the administrator's own login is in them, and nobody is impersonated unless a test says so.
#![allow(dead_code)] // every test file compiles this module for itself and uses a part of it

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, until};

/// A kubeconfig of somebody's own. It ends with this.
pub struct Login {
    cluster: Cluster,
    kubeconfig: PathBuf,
    /// Who it is to the API server.
    pub name: String,
}

impl Login {
    /// A user, by a certificate that is asked for and approved as the one of a person is.
    pub async fn user(cluster: &Cluster, name: &str) -> anyhow::Result<Self> {
        let (key, request) = key_and_request(name)?;
        let requests = Api::<CertificateSigningRequest>::all(cluster.client.clone());
        let request: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"generateName": "sluice-tests-"},
            "spec": {
                "request": ByteString(request), "signerName": "kubernetes.io/kube-apiserver-client",
                "usages": ["client auth"], "expirationSeconds": 3600,
            },
        }))?;
        let request = requests.create(&PostParams::default(), &request).await?.name_any();
        cluster.kubectl(&["certificate", "approve", &request]).await?;
        let signed = |request: &CertificateSigningRequest| {
            request.status.as_ref().is_some_and(|status| status.certificate.is_some())
        };
        let signed = until(&requests, &request, "signed", PATIENCE, signed).await?;
        requests.delete(&request, &DeleteParams::default()).await?;
        let certificate = signed.status.and_then(|status| status.certificate).context("no certificate")?;
        let proof = json!({"client-certificate-data": certificate, "client-key-data": ByteString(key)});
        Self::with(cluster, name, proof).await
    }

    /// A ServiceAccount, which is made when it is missing, by a token of an hour.
    pub async fn account(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), namespace);
        if accounts.get_opt(name).await?.is_none() {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            accounts.create(&PostParams::default(), &ServiceAccount { metadata, ..Default::default() }).await?;
        }
        let token = cluster.kubectl(&["-n", namespace, "create", "token", name, "--duration=1h"]).await?;
        let name = format!("system:serviceaccount:{namespace}:{name}");
        Self::with(cluster, &name, json!({"token": token.trim()})).await
    }

    /// Writes the kubeconfig, and asks the API server whom it sees.
    async fn with(cluster: &Cluster, name: &str, proof: Value) -> anyhow::Result<Self> {
        let mut config = serde_json::to_value(Kubeconfig::read()?)?;
        let current = config["contexts"][0]["name"] == config["current-context"];
        ensure!(current, "the kubeconfig of the tests has one context");
        config["contexts"][0]["context"]["user"] = json!("somebody");
        config["users"] = json!([{"name": "somebody", "user": proof}]);
        let file = format!("login-{:08x}.kubeconfig", RandomState::new().hash_one(name) & 0xffff_ffff);
        let kubeconfig = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
        std::fs::write(&kubeconfig, config.to_string())?;
        let login = Self { cluster: cluster.clone(), kubeconfig, name: name.to_owned() };
        let seen = login.kubectl("default", &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"], None);
        let seen = seen.await?;
        ensure!(seen.stdout == name.as_bytes(), "{name} is seen as {seen:?}");
        Ok(login)
    }

    /// A client that is this one.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = Kubeconfig::read_from(&self.kubeconfig)?;
        Ok(Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?)?)
    }

    /// `kubectl` as this one, in a namespace.
    pub async fn kubectl(&self, namespace: &str, arguments: &[&str], input: Option<&Value>) -> anyhow::Result<Output> {
        let kubeconfig = self.kubeconfig.to_str().context("no path")?;
        let own = ["--kubeconfig", kubeconfig, "-n", namespace];
        let all: Vec<&str> = own.into_iter().chain(arguments.iter().copied()).collect();
        self.cluster.run("KUBECTL", &all, input.map(Value::to_string).as_deref()).await
    }

    /// What `kubectl` says to this one where it must obey.
    pub async fn done(&self, namespace: &str, arguments: &[&str], input: Option<&Value>) -> anyhow::Result<String> {
        let output = self.kubectl(namespace, arguments, input).await?;
        ensure!(output.status.success(), "{}: {arguments:?}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Why the API server refuses this one something.
    pub async fn refused(&self, namespace: &str, arguments: &[&str], input: Option<&Value>) -> anyhow::Result<String> {
        let output = self.kubectl(namespace, arguments, input).await?;
        ensure!(!output.status.success(), "{} was obeyed: {arguments:?} {input:?}", self.name);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.kubeconfig));
    }
}

/// A key, and the request to sign that it is this user's: both as PEM.
fn key_and_request(user: &str) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let subject = format!("/CN={user}");
    let ask = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", &subject];
    let output = Command::new("openssl").args(ask).args(["-keyout", "-"]).output();
    let output = output.context("could not run openssl, which makes the keys of users: install it")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    let both = String::from_utf8(output.stdout)?;
    let end = "-----END PRIVATE KEY-----\n";
    let (key, request) = both.split_once(end).context("openssl printed no key")?;
    Ok((format!("{key}{end}").into_bytes(), request.as_bytes().to_vec()))
}
