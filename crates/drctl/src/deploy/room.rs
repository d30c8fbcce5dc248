//! Whether the account has room for what a failover asks for: quotas, and addresses for its nodes.
//!
//! All of it is found out by a failover too, in the worst moment: EC2 refuses an instance beyond the quota, and a node group whose
//! subnets are full stays small. What else runs in the region and counts against the same quota is not subtracted.

use recovery::{fault::chain, plan::Plan};
use recovery_aws::{
    Aws,
    ec2::{InstanceType, Subnet},
    service_quotas::{LAMBDA_CONCURRENCY, NODES_PER_GROUP, Quota, STANDARD_SPOT_VCPUS, STANDARD_VCPUS},
};
use recovery_suite::FUNCTIONS;

use super::{Finding, good, unknown, wrong};

/// A node of EKS takes the addresses of one network interface, and of a second one that is kept warm for pods.
/// <https://github.com/aws/amazon-vpc-cni-k8s/blob/master/docs/eni-and-ip-target.md>
const INTERFACES_OF_A_NODE: u32 = 2;
/// Lambda keeps so many for functions without a reservation.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html>
const UNRESERVED: u32 = 100;
/// Families that one quota counts together.
const STANDARD: &str = "acdhimrtz";
/// Families of other quotas whose names begin with the same letters.
const OTHERWISE: [&str; 5] = ["dl", "hpc", "inf", "mac", "trn"];

/// What was seen of the account.
pub struct Looked {
    /// What the node group is made of.
    pub nodes: Result<Nodes, String>,
    /// Nodes that one managed group may have.
    pub per_group: Result<f64, String>,
    /// Invocations at the same time in the tertiary region.
    pub concurrency: Result<f64, String>,
}

/// What the node group of the secondary region is made of.
pub struct Nodes {
    /// Its instance types; none where a launch template names them.
    pub types: Result<Vec<InstanceType>, String>,
    /// Its subnets.
    pub subnets: Result<Vec<Subnet>, String>,
    /// The quota that counts its instances, and what is allowed.
    pub vcpus: (Quota, Result<f64, String>),
}

/// Looks at the account in both regions.
pub async fn look(aws: &Aws, plan: &Plan) -> Looked {
    let quotas = aws.service_quotas(&plan.regions.secondary);
    let here = aws.service_quotas(&plan.regions.tertiary);
    let (nodes, per_group, concurrency) =
        tokio::join!(nodes(aws, plan), quotas.applied(NODES_PER_GROUP), here.applied(LAMBDA_CONCURRENCY));
    Looked {
        nodes,
        per_group: per_group.map_err(|trouble| chain(&trouble)),
        concurrency: concurrency.map_err(|trouble| chain(&trouble)),
    }
}

async fn nodes(aws: &Aws, plan: &Plan) -> Result<Nodes, String> {
    let footing = aws.secondary_node_group().footing().await.map_err(|trouble| chain(&trouble))?;
    let (ec2, quotas) = (aws.ec2(&plan.regions.secondary), aws.service_quotas(&plan.regions.secondary));
    let quota = if footing.spot { STANDARD_SPOT_VCPUS } else { STANDARD_VCPUS };
    let types = async {
        if footing.instance_types.is_empty() {
            Ok(Vec::new())
        } else {
            ec2.instance_types(&footing.instance_types).await
        }
    };
    let (types, subnets, vcpus) = tokio::join!(types, ec2.subnets(&footing.subnets), quotas.applied(quota));
    Ok(Nodes {
        types: types.map_err(|trouble| chain(&trouble)),
        subnets: subnets.map_err(|trouble| chain(&trouble)),
        vcpus: (quota, vcpus.map_err(|trouble| chain(&trouble))),
    })
}

/// What the account has no room for. `present` counts the nodes that stand already; `reserved` is the stack's
/// `ReservedConcurrency`.
pub fn judge(plan: &Plan, looked: &Looked, present: Option<u32>, reserved: Option<u32>) -> Vec<Finding> {
    let maximum = plan.kubernetes.capacity.maximum;
    let (group, region) = (&plan.kubernetes.capacity.node_group, &plan.regions.secondary);
    let mut findings =
        vec![quota(NODES_PER_GROUP, &looked.per_group, maximum, &format!("`{group}` may grow to {maximum} nodes"))];
    if let Some(reserved) = reserved {
        let functions = u32::try_from(FUNCTIONS.len()).unwrap_or(u32::MAX);
        let need = reserved * functions + UNRESERVED;
        let why = format!("{functions} functions reserve {reserved} each, and {UNRESERVED} must stay free");
        findings.push(quota(LAMBDA_CONCURRENCY, &looked.concurrency, need, &why));
    }
    let nodes = match &looked.nodes {
        Ok(nodes) => nodes,
        Err(why) => {
            let remedy =
                format!("look at `{group}` in {region}: its instance types, and free addresses in its subnets");
            findings.push(unknown("addresses", why, remedy));
            return findings;
        }
    };
    let types = match &nodes.types {
        Ok(types) if types.is_empty() => {
            Err("a launch template names the instance types, which is not read here".to_owned())
        }
        Ok(types) => Ok(types),
        Err(why) => Err(why.clone()),
    };
    let types = match types {
        Ok(types) => types,
        Err(why) => {
            findings.push(unknown(
                "quota",
                &why,
                format!("compare vCPUs of {maximum} nodes with the quota in {region}"),
            ));
            return findings;
        }
    };
    findings.push(vcpus(&nodes.vcpus, types, maximum, group));
    findings.push(addresses(plan, &nodes.subnets, types, present.unwrap_or_default()));
    findings
}

fn vcpus(
    (which, allowed): &(Quota, Result<f64, String>),
    types: &[InstanceType],
    maximum: u32,
    group: &str,
) -> Finding {
    if let Some(other) = types.iter().find(|kind| !is_standard(&kind.name)) {
        let why = format!("`{}` of `{group}` is counted by another quota than `{}`", other.name, which.name);
        return unknown("quota", &why, format!("compare {maximum} nodes with the quota of its family"));
    }
    let largest = types.iter().max_by_key(|kind| kind.vcpus);
    let (name, each) = largest.map_or(("", 0), |kind| (&kind.name, kind.vcpus));
    let why = format!("{maximum} nodes of {name} have {each} vCPUs each");
    quota(*which, allowed, maximum * each, &why)
}

fn is_standard(instance_type: &str) -> bool {
    let family = instance_type.split('.').next().unwrap_or_default();
    family.starts_with(|letter| STANDARD.contains(letter)) && !OTHERWISE.iter().any(|other| family.starts_with(other))
}

fn quota(which: Quota, allowed: &Result<f64, String>, need: u32, why: &str) -> Finding {
    let Quota { service, code, name } = which;
    match allowed {
        Err(trouble) => unknown(
            "quota",
            trouble,
            format!("look it up: aws service-quotas get-service-quota --service-code {service} --quota-code {code}"),
        ),
        Ok(allowed) if *allowed >= f64::from(need) => {
            good("quota", format!("{name}: {allowed} are allowed, {need} are enough ({why})"))
        }
        Ok(allowed) => wrong(
            "quota",
            format!("{name}: {allowed} are allowed, {need} are needed ({why})"),
            format!(
                "ask now, it may take days: aws service-quotas request-service-quota-increase --service-code {service} --quota-code {code} --desired-value {need}"
            ),
        ),
    }
}

fn addresses(plan: &Plan, subnets: &Result<Vec<Subnet>, String>, types: &[InstanceType], present: u32) -> Finding {
    let (group, maximum) = (&plan.kubernetes.capacity.node_group, plan.kubernetes.capacity.maximum);
    let subnets = match subnets {
        Ok(subnets) => subnets,
        Err(why) => {
            let remedy = format!("look at free addresses in the subnets of `{group}` in {}", plan.regions.secondary);
            return unknown("addresses", why, remedy);
        }
    };
    let interface = types.iter().map(|kind| kind.addresses_per_interface).max().unwrap_or_default();
    let each = interface * INTERFACES_OF_A_NODE;
    let need = maximum.saturating_sub(present) * each;
    let free: u32 = subnets.iter().map(|subnet| subnet.free_addresses).sum();
    let says = format!(
        "{} subnets of `{group}` have {free} free addresses; growing from {present} to {maximum} nodes takes up to {need}",
        subnets.len()
    );
    if free >= need {
        good("addresses", says)
    } else {
        wrong(
            "addresses",
            says,
            format!(
                "give `{group}` larger subnets or more of them, or let the VPC CNI keep fewer warm (WARM_IP_TARGET)"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Standing;
    use super::*;

    fn roomy() -> Looked {
        let kind = |name: &str, vcpus| InstanceType { name: name.to_owned(), vcpus, addresses_per_interface: 15 };
        let subnet = |id: &str| Subnet { id: id.to_owned(), free_addresses: 1000 };
        Looked {
            nodes: Ok(Nodes {
                types: Ok(vec![kind("m6i.2xlarge", 8), kind("m5.2xlarge", 8)]),
                subnets: Ok(vec![subnet("subnet-0a"), subnet("subnet-0b")]),
                vcpus: (STANDARD_VCPUS, Ok(640.0)),
            }),
            per_group: Ok(450.0),
            concurrency: Ok(1000.0),
        }
    }

    #[test]
    fn what_a_failover_would_be_refused_is_said_beforehand() {
        let plan = Plan::read(Path::new("../../plans/sparc.toml")).unwrap();
        assert_eq!(plan.kubernetes.capacity.maximum, 60, "the figures below are for sixty nodes");
        /// What is different, how to make it so, and what is said of it.
        type Situation = (&'static str, fn(&mut Looked), Option<(&'static str, Standing)>);
        let situations: [Situation; 7] = [
            ("there is room for everything", |_| {}, None),
            (
                "a new account's quota",
                |looked| looked.nodes.as_mut().unwrap().vcpus.1 = Ok(5.0),
                Some(("5 are allowed, 480 are needed (60 nodes of m5.2xlarge have 8 vCPUs each)", Standing::Wrong)),
            ),
            (
                "full subnets",
                |looked| looked.nodes.as_mut().unwrap().subnets.as_mut().unwrap()[0].free_addresses = 7,
                Some(("have 1007 free addresses; growing from 10 to 60 nodes takes up to 1500", Standing::Wrong)),
            ),
            (
                "a small limit of nodes",
                |looked| looked.per_group = Ok(50.0),
                Some(("50 are allowed, 60 are needed", Standing::Wrong)),
            ),
            (
                "a new account's Lambda",
                |looked| looked.concurrency = Ok(10.0),
                Some(("10 are allowed, 155 are needed (11 functions reserve 5 each", Standing::Wrong)),
            ),
            (
                "types of another family",
                |looked| looked.nodes.as_mut().unwrap().types.as_mut().unwrap()[1].name = "inf2.xlarge".to_owned(),
                Some(("`inf2.xlarge` of `workers` is counted by another quota", Standing::Unknown)),
            ),
            (
                "a launch template",
                |looked| looked.nodes.as_mut().unwrap().types = Ok(Vec::new()),
                Some(("a launch template names the instance types", Standing::Unknown)),
            ),
        ];
        for (situation, change, expected) in situations {
            let mut looked = roomy();
            change(&mut looked);
            let findings = judge(&plan, &looked, Some(10), Some(5));
            let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.standing != Standing::Good).collect();
            match expected {
                None => assert!(bad.is_empty() && findings.len() == 4, "{situation}: {findings:?}"),
                Some((words, standing)) => {
                    assert!(bad.len() == 1 && bad[0].says.contains(words), "{situation}: {bad:?}");
                    assert_eq!(bad[0].standing, standing, "{situation}");
                }
            }
        }
    }

    #[test]
    fn families_that_one_quota_counts_are_told_from_those_that_look_alike() {
        for kind in ["m6i.2xlarge", "c7g.large", "t3.small", "r5.xlarge", "im4gn.large", "z1d.large"] {
            assert!(is_standard(kind), "{kind}");
        }
        for kind in
            ["inf2.xlarge", "trn1.2xlarge", "dl1.24xlarge", "hpc6a.48xlarge", "mac2.metal", "p4d.24xlarge", "g5.xlarge"]
        {
            assert!(!is_standard(kind), "{kind}");
        }
    }
}
