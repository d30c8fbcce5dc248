//! Where a failover's needs are looked for: the failover region's registry, secrets and cluster, the tertiary region's
//! secrets and keys, and the files beside the plan. Nothing here asks the region that may be lost.

use jiff::Timestamp;
use recovery::{
    closure::{self, CertificateFile, Closure, KeyShelf, NeededKey, SecretShelf, World},
    plan::Plan,
};
use recovery_aws::Aws;
use recovery_kubernetes::Cluster;
use recovery_lambda::Settings;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_cert::{Certificate, der::Decode};

/// Looks for everything that a failover needs. `secondary` is the cluster that it goes to.
pub async fn closure(settings: &Settings, aws: &Aws, secondary: &Cluster, now: Timestamp) -> Closure {
    let plan = &*settings.plan;
    let regions = &plan.regions;
    let (evidence, registry) = (aws.evidence(), aws.registry());
    let secrets = [aws.secret_names(&regions.secondary), aws.secret_names(&regions.tertiary)];
    let keys = [aws.keys(&regions.secondary), aws.keys(&regions.tertiary)];
    let world = World {
        evidence: &*evidence,
        registry: &*registry,
        secrets: &secrets.each_ref().map(|shelf| shelf as &dyn SecretShelf),
        keys: &keys.each_ref().map(|shelf| shelf as &dyn KeyShelf),
        certificates: &aws.certificates(&regions.secondary),
        cluster: secondary,
        files: &certificate_files(settings),
    };
    closure::look(plan, &needed_keys(plan), &world, now).await
}

fn needed_keys(plan: &Plan) -> Vec<NeededKey> {
    vec![NeededKey {
        key: plan.backups.kms_key.clone(),
        region: plan.regions.tertiary.clone(),
        needed_by: "every backup".to_owned(),
    }]
}

fn certificate_files(settings: &Settings) -> Vec<CertificateFile> {
    let plan = &settings.plan;
    let names = [&plan.postgresql.ca_file, &plan.kubernetes.primary.ca_file, &plan.kubernetes.secondary.ca_file];
    let read = |name: &String| {
        let text = settings.file(name).map_err(|failure| failure.message);
        CertificateFile { name: name.clone(), ends_at: text.and_then(|text| last_end(&text)) }
    };
    names.into_iter().map(read).collect()
}

/// When the last certificate of a PEM file ends.
fn last_end(pem: &str) -> Result<Timestamp, String> {
    let mut last: Option<Timestamp> = None;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        let certificate = Certificate::from_der(&der).map_err(|error| format!("it holds no certificate: {error}"))?;
        let not_after = certificate.tbs_certificate.validity.not_after.to_unix_duration();
        let ends_at = i64::try_from(not_after.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let ends_at = ends_at.ok_or("a certificate in it ends beyond any calendar")?;
        last = Some(last.map_or(ends_at, |last| last.max(ends_at)));
    }
    last.ok_or_else(|| "there is no certificate in it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(year: i32) -> String {
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 2, 3);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_file_is_good_until_the_last_of_its_certificates_ends() {
        let two = format!("{}{}", authority(2030), authority(2027));
        assert_eq!(last_end(&two).unwrap(), "2030-02-03T00:00:00Z".parse().unwrap());
        assert_eq!(last_end("").unwrap_err(), "there is no certificate in it");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(last_end(broken).unwrap_err().starts_with("it holds no certificate"));
    }
}
