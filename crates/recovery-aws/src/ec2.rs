//! Room for nodes: free addresses in subnets, and what an instance type takes.

use crate::{
    signed::{Signed, members, parsed, text},
    trouble::Trouble,
};

/// EC2 of one region.
#[derive(Clone, Debug)]
pub struct Ec2 {
    client: Signed,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: String,
    /// IPv4 addresses that nobody has.
    pub free_addresses: u32,
}

/// What one instance of a type takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceType {
    /// `m6i.2xlarge`.
    pub name: String,
    /// As quotas count.
    pub vcpus: u32,
    /// IPv4 addresses of one network interface.
    pub addresses_per_interface: u32,
}

impl Ec2 {
    pub(crate) fn new(client: Signed) -> Ec2 {
        Ec2 { client }
    }

    /// These subnets.
    ///
    /// # Errors
    /// The service's; one that is not there is `InvalidSubnetID.NotFound`.
    pub async fn subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, Trouble> {
        let answer = self.client.call("DescribeSubnets", &numbered("SubnetId", ids)).await?;
        let document = parsed("EC2", &answer)?;
        members(document.root(), "subnetSet")
            .map(|subnet| {
                let id = text(subnet, "subnetId").unwrap_or_default().to_owned();
                let free = text(subnet, "availableIpAddressCount").and_then(|count| count.parse().ok());
                let free_addresses = free.ok_or_else(|| lacks(&format!("the free addresses of `{id}`")))?;
                Ok(Subnet { id, free_addresses })
            })
            .collect()
    }

    /// These instance types.
    ///
    /// # Errors
    /// The service's; one that the region does not have is `InvalidInstanceType`.
    pub async fn instance_types(&self, names: &[String]) -> Result<Vec<InstanceType>, Trouble> {
        let answer = self.client.call("DescribeInstanceTypes", &numbered("InstanceType", names)).await?;
        let document = parsed("EC2", &answer)?;
        members(document.root(), "instanceTypeSet")
            .map(|kind| {
                let name = text(kind, "instanceType").unwrap_or_default().to_owned();
                let number = |group: &str, field: &str| {
                    let group = kind.children().find(|child| child.tag_name().name() == group)?;
                    text(group, field)?.parse().ok()
                };
                let vcpus = number("vCpuInfo", "defaultVCpus");
                let addresses = number("networkInfo", "ipv4AddressesPerInterface");
                match (vcpus, addresses) {
                    (Some(vcpus), Some(addresses_per_interface)) => {
                        Ok(InstanceType { name, vcpus, addresses_per_interface })
                    }
                    _ => Err(lacks(&format!("what `{name}` takes"))),
                }
            })
            .collect()
    }
}

fn lacks(what: &str) -> Trouble {
    Trouble::unexpected(format!("EC2 answered without {what}"))
}

fn numbered(name: &str, values: &[String]) -> Vec<(String, String)> {
    values.iter().enumerate().map(|(index, value)| (format!("{name}.{}", index + 1), value.clone())).collect()
}
