//! Every call that the suite makes to AWS, with its plane and its home.
//!
//! A control plane has a home region, and those of Route 53, CloudFront and IAM live in us-east-1, the region that is lost.
//! So nothing that a failover waits for may be called there: traffic moves by data planes, and what is edited in us-east-1
//! follows if it can. That is a property of the whole suite and cannot be seen in any one place, so it is written down
//! here, and tests compare this table with the adapters, with the functions and with the state machines.
//! <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/global-services.html>

/// What a call belongs to: planes fail apart, and control planes fail first and longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Changes or describes resources.
    Control,
    /// Does the daily work of a service.
    Data,
}

/// The region that must work for a call to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Where the suite runs.
    Tertiary,
    /// Where the platform goes: if it is lost too, there is no regional failover.
    Secondary,
    /// The region that may be lost: only the watcher asks it, while it is there.
    Primary,
    /// The control planes of global services.
    UsEast1,
}

/// One call that one function makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The service as the SDK names it.
    pub service: &'static str,
    /// The operation as the API names it.
    pub operation: &'static str,
    /// The folder in `functions/`, or `drctl`.
    pub function: &'static str,
    /// The `action` of the request that makes it; `None` is every one.
    pub action: Option<&'static str>,
    /// Control or data.
    pub plane: Plane,
    /// Who must work for it.
    pub home: Home,
    /// A run stops or waits if it is not answered.
    pub blocking: bool,
    /// What AWS says of it.
    pub documentation: &'static str,
}

macro_rules! documentation {
    ($page:literal) => {
        concat!("https://docs.aws.amazon.com/", $page)
    };
}

const GET_OBJECT: Call = Call {
    service: "S3",
    operation: "GetObject",
    function: "",
    action: None,
    plane: Plane::Data,
    home: Home::Tertiary,
    blocking: true,
    documentation: documentation!("AmazonS3/latest/API/API_GetObject.html"),
};
const PUT_OBJECT: Call = Call {
    operation: "PutObject",
    documentation: documentation!("AmazonS3/latest/API/API_PutObject.html"),
    ..GET_OBJECT
};
const DELETE_OBJECT: Call = Call {
    operation: "DeleteObject",
    documentation: documentation!("AmazonS3/latest/API/API_DeleteObject.html"),
    ..GET_OBJECT
};
const HEAD_OBJECT: Call = Call {
    operation: "HeadObject",
    documentation: documentation!("AmazonS3/latest/API/API_HeadObject.html"),
    ..GET_OBJECT
};
const LIST_OBJECTS: Call = Call {
    operation: "ListObjectsV2",
    documentation: documentation!("AmazonS3/latest/API/API_ListObjectsV2.html"),
    ..GET_OBJECT
};
const CREATE_MULTIPART_UPLOAD: Call = Call {
    operation: "CreateMultipartUpload",
    function: "backup-trigger",
    action: Some("take"),
    blocking: false,
    documentation: documentation!("AmazonS3/latest/API/API_CreateMultipartUpload.html"),
    ..GET_OBJECT
};
const GET_SECRET_VALUE: Call = Call {
    service: "SecretsManager",
    operation: "GetSecretValue",
    documentation: documentation!("secretsmanager/latest/apireference/API_GetSecretValue.html"),
    ..GET_OBJECT
};
const PUBLISH: Call = Call {
    service: "SNS",
    operation: "Publish",
    documentation: documentation!("sns/latest/api/API_Publish.html"),
    ..GET_OBJECT
};
/// Signed by us, made by the cluster, which asks the STS of its own region who signed.
const GET_CALLER_IDENTITY: Call = Call {
    service: "STS",
    operation: "GetCallerIdentity",
    home: Home::Secondary,
    documentation: documentation!("STS/latest/APIReference/API_GetCallerIdentity.html"),
    ..GET_OBJECT
};
const DESCRIBE_NODEGROUP: Call = Call {
    service: "EKS",
    operation: "DescribeNodegroup",
    plane: Plane::Control,
    home: Home::Secondary,
    documentation: documentation!("eks/latest/APIReference/API_DescribeNodegroup.html"),
    ..GET_OBJECT
};
const UPDATE_NODEGROUP_CONFIG: Call = Call {
    operation: "UpdateNodegroupConfig",
    documentation: documentation!("eks/latest/APIReference/API_UpdateNodegroupConfig.html"),
    ..DESCRIBE_NODEGROUP
};
const DESCRIBE_DB_INSTANCES: Call = Call {
    service: "RDS",
    operation: "DescribeDBInstances",
    function: "promote-replica",
    plane: Plane::Control,
    home: Home::Secondary,
    documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBInstances.html"),
    ..GET_OBJECT
};
const LOOK_AT_LOG: Call = Call {
    function: "checksum-verify",
    action: Some("look-at-log"),
    home: Home::Primary,
    blocking: false,
    ..DESCRIBE_DB_INSTANCES
};
const BATCH_GET_IMAGE: Call = Call {
    service: "ECR",
    operation: "BatchGetImage",
    function: "verify-recovery",
    action: Some("health"),
    home: Home::Secondary,
    blocking: false,
    documentation: documentation!("AmazonECR/latest/APIReference/API_BatchGetImage.html"),
    ..GET_OBJECT
};
const GENERATE_DATA_KEY: Call = Call {
    service: "KMS",
    operation: "GenerateDataKey",
    function: "backup-trigger",
    action: Some("take"),
    blocking: false,
    documentation: documentation!("kms/latest/APIReference/API_GenerateDataKey.html"),
    ..GET_OBJECT
};
const DESCRIBE_KEY: Call = Call {
    operation: "DescribeKey",
    plane: Plane::Control,
    documentation: documentation!("kms/latest/APIReference/API_DescribeKey.html"),
    ..GENERATE_DATA_KEY
};
const DESCRIBE_SECRET: Call = Call {
    service: "SecretsManager",
    operation: "DescribeSecret",
    function: "backup-trigger",
    action: Some("take"),
    plane: Plane::Control,
    blocking: false,
    documentation: documentation!("secretsmanager/latest/apireference/API_DescribeSecret.html"),
    ..GET_OBJECT
};
const DESCRIBE_IMAGES: Call = Call {
    service: "ECR",
    operation: "DescribeImages",
    function: "backup-trigger",
    action: Some("take"),
    home: Home::Secondary,
    plane: Plane::Control,
    blocking: false,
    documentation: documentation!("AmazonECR/latest/APIReference/API_DescribeImages.html"),
};
const DESCRIBE_REPOSITORIES: Call = Call {
    operation: "DescribeRepositories",
    documentation: documentation!("AmazonECR/latest/APIReference/API_DescribeRepositories.html"),
    ..DESCRIBE_IMAGES
};
const CHANGE_RECORDS: Call = Call {
    service: "Route53",
    operation: "ChangeResourceRecordSets",
    function: "swap-dns",
    action: Some("edit"),
    plane: Plane::Control,
    home: Home::UsEast1,
    blocking: false,
    documentation: documentation!("Route53/latest/APIReference/API_ChangeResourceRecordSets.html"),
};
const START_EXECUTION: Call = Call {
    service: "SFN",
    operation: "StartExecution",
    function: "drctl",
    blocking: false,
    documentation: documentation!("step-functions/latest/apireference/API_StartExecution.html"),
    ..GET_OBJECT
};

/// Asked of the region of the server that backups are read from; the plan's is the standby.
const TAKE_SNAPSHOT: Call = Call {
    service: "RDS",
    operation: "CreateDBSnapshot",
    function: "backup-trigger",
    action: Some("take"),
    plane: Plane::Control,
    home: Home::Secondary,
    blocking: false,
    documentation: "",
};

/// What is known of snapshots is asked where they are copied to.
const DESCRIBE_DB_SNAPSHOTS: Call = Call {
    operation: "DescribeDBSnapshots",
    function: "checksum-verify",
    action: Some("conclude"),
    home: Home::Tertiary,
    documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html"),
    ..TAKE_SNAPSHOT
};
const DESCRIBE_DB_CLUSTER_SNAPSHOTS: Call = Call {
    operation: "DescribeDBClusterSnapshots",
    documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusterSnapshots.html"),
    ..DESCRIBE_DB_SNAPSHOTS
};
/// What is not deleted today is deleted tomorrow.
const DELETE_DB_SNAPSHOT: Call = Call {
    operation: "DeleteDBSnapshot",
    action: Some("retain"),
    documentation: documentation!("AmazonRDS/latest/APIReference/API_DeleteDBSnapshot.html"),
    ..DESCRIBE_DB_SNAPSHOTS
};
const DELETE_DB_CLUSTER_SNAPSHOT: Call = Call {
    operation: "DeleteDBClusterSnapshot",
    documentation: documentation!("AmazonRDS/latest/APIReference/API_DeleteDBClusterSnapshot.html"),
    ..DELETE_DB_SNAPSHOT
};
const GET_METRIC_DATA: Call = Call {
    service: "CloudWatch",
    operation: "GetMetricData",
    home: Home::Secondary,
    plane: Plane::Data,
    documentation: documentation!("AmazonCloudWatch/latest/APIReference/API_GetMetricData.html"),
    ..DESCRIBE_SECRET
};
const DESCRIBE_CERTIFICATE: Call = Call {
    service: "ACM",
    operation: "DescribeCertificate",
    home: Home::Secondary,
    documentation: documentation!("acm/latest/APIReference/API_DescribeCertificate.html"),
    ..DESCRIBE_SECRET
};

/// What `drctl deploy check` asks; nothing waits for it.
const DESCRIBE_STACKS: Call = Call {
    service: "CloudFormation",
    operation: "DescribeStacks",
    plane: Plane::Control,
    documentation: documentation!("AWSCloudFormation/latest/APIReference/API_DescribeStacks.html"),
    ..START_EXECUTION
};
const DESCRIBE_SUBNETS: Call = Call {
    service: "EC2",
    operation: "DescribeSubnets",
    home: Home::Secondary,
    documentation: documentation!("AWSEC2/latest/APIReference/API_DescribeSubnets.html"),
    ..DESCRIBE_STACKS
};
const GET_SERVICE_QUOTA: Call = Call {
    service: "ServiceQuotas",
    operation: "GetServiceQuota",
    documentation: documentation!("servicequotas/2019-06-24/apireference/API_GetServiceQuota.html"),
    ..DESCRIBE_STACKS
};

/// The table.
pub const CALLS: &[Call] = &[
    Call { function: "plan-failover", ..GET_OBJECT },
    Call { function: "plan-failover", ..GET_SECRET_VALUE },
    Call { function: "plan-failover", ..DESCRIBE_NODEGROUP },
    Call { function: "fence-primary", ..GET_OBJECT },
    Call { function: "fence-primary", ..PUT_OBJECT },
    Call { function: "fence-primary", ..GET_SECRET_VALUE },
    Call { function: "promote-replica", ..GET_OBJECT },
    Call { function: "promote-replica", ..PUT_OBJECT },
    Call { function: "promote-replica", ..GET_SECRET_VALUE },
    DESCRIBE_DB_INSTANCES,
    Call {
        operation: "PromoteReadReplica",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_PromoteReadReplica.html"),
        ..DESCRIBE_DB_INSTANCES
    },
    Call {
        operation: "DescribeGlobalClusters",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeGlobalClusters.html"),
        ..DESCRIBE_DB_INSTANCES
    },
    Call {
        operation: "FailoverGlobalCluster",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_FailoverGlobalCluster.html"),
        ..DESCRIBE_DB_INSTANCES
    },
    Call {
        operation: "SwitchoverGlobalCluster",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_SwitchoverGlobalCluster.html"),
        ..DESCRIBE_DB_INSTANCES
    },
    // Workloads are deployed without the nodes if need be, so nothing stops here.
    Call { function: "scale-nodegroup", blocking: false, ..DESCRIBE_NODEGROUP },
    Call { function: "scale-nodegroup", blocking: false, ..UPDATE_NODEGROUP_CONFIG },
    Call { function: "scale-nodegroup", blocking: false, ..GET_CALLER_IDENTITY },
    Call { function: "deploy-workloads", ..GET_OBJECT },
    Call { function: "deploy-workloads", ..GET_CALLER_IDENTITY },
    Call { function: "verify-recovery", ..GET_OBJECT },
    Call { function: "verify-recovery", ..PUT_OBJECT },
    Call { function: "verify-recovery", ..GET_SECRET_VALUE },
    // Evidence of what arrived in the copy, and the heartbeats that are to arrive there.
    Call { function: "verify-recovery", action: Some("health"), home: Home::Secondary, blocking: false, ..GET_OBJECT },
    Call { function: "verify-recovery", action: Some("watch"), home: Home::Primary, blocking: false, ..PUT_OBJECT },
    BATCH_GET_IMAGE,
    Call { function: "swap-dns", action: Some("switch"), ..GET_OBJECT },
    Call { function: "swap-dns", action: Some("switch"), ..PUT_OBJECT },
    Call { function: "swap-dns", action: Some("edit"), blocking: false, ..GET_OBJECT },
    Call { function: "swap-dns", action: Some("edit"), blocking: false, ..PUT_OBJECT },
    CHANGE_RECORDS,
    Call {
        operation: "GetChange",
        documentation: documentation!("Route53/latest/APIReference/API_GetChange.html"),
        ..CHANGE_RECORDS
    },
    Call {
        service: "CloudFront",
        operation: "GetDistributionConfig",
        documentation: documentation!("cloudfront/latest/APIReference/API_GetDistributionConfig.html"),
        ..CHANGE_RECORDS
    },
    Call {
        service: "CloudFront",
        operation: "UpdateDistribution",
        documentation: documentation!("cloudfront/latest/APIReference/API_UpdateDistribution.html"),
        ..CHANGE_RECORDS
    },
    Call { function: "notify", ..GET_OBJECT },
    Call { function: "notify", ..PUT_OBJECT },
    Call { function: "notify", ..PUBLISH },
    Call { function: "report", blocking: false, ..GET_OBJECT },
    Call { function: "report", blocking: false, ..PUT_OBJECT },
    Call { function: "report", blocking: false, ..LIST_OBJECTS },
    Call { function: "backup-trigger", ..GET_OBJECT },
    Call { function: "backup-trigger", ..PUT_OBJECT },
    Call { function: "backup-trigger", ..GET_SECRET_VALUE },
    // How fast earlier backups were.
    Call { function: "backup-trigger", action: Some("plan"), ..LIST_OBJECTS },
    // A backup that fails is told, and the others are taken all the same.
    Call { function: "backup-trigger", action: Some("take"), blocking: false, ..HEAD_OBJECT },
    CREATE_MULTIPART_UPLOAD,
    Call {
        operation: "UploadPart",
        documentation: documentation!("AmazonS3/latest/API/API_UploadPart.html"),
        ..CREATE_MULTIPART_UPLOAD
    },
    Call {
        operation: "CompleteMultipartUpload",
        documentation: documentation!("AmazonS3/latest/API/API_CompleteMultipartUpload.html"),
        ..CREATE_MULTIPART_UPLOAD
    },
    Call {
        operation: "AbortMultipartUpload",
        documentation: documentation!("AmazonS3/latest/API/API_AbortMultipartUpload.html"),
        ..CREATE_MULTIPART_UPLOAD
    },
    Call {
        operation: "ListParts",
        documentation: documentation!("AmazonS3/latest/API/API_ListParts.html"),
        ..CREATE_MULTIPART_UPLOAD
    },
    Call {
        operation: "ListMultipartUploads",
        documentation: documentation!("AmazonS3/latest/API/API_ListMultipartUploads.html"),
        ..CREATE_MULTIPART_UPLOAD
    },
    Call { function: "checksum-verify", ..GET_OBJECT },
    Call { function: "checksum-verify", ..PUT_OBJECT },
    Call { function: "checksum-verify", ..HEAD_OBJECT },
    Call { function: "checksum-verify", ..LIST_OBJECTS },
    // What is not marked today is marked tomorrow.
    Call {
        operation: "GetObjectTagging",
        function: "checksum-verify",
        action: Some("retain"),
        blocking: false,
        documentation: documentation!("AmazonS3/latest/API/API_GetObjectTagging.html"),
        ..GET_OBJECT
    },
    Call {
        operation: "PutObjectTagging",
        function: "checksum-verify",
        action: Some("retain"),
        blocking: false,
        documentation: documentation!("AmazonS3/latest/API/API_PutObjectTagging.html"),
        ..GET_OBJECT
    },
    // To which moment RDS can restore, asked where the log is kept; the next look asks again.
    LOOK_AT_LOG,
    Call { action: Some("follow-log"), ..LOOK_AT_LOG },
    Call {
        operation: "DescribeDBClusters",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusters.html"),
        ..LOOK_AT_LOG
    },
    Call {
        operation: "DescribeDBClusters",
        action: Some("follow-log"),
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusters.html"),
        ..LOOK_AT_LOG
    },
    // The cluster's state is sealed under a data key that is opened once before anything is published under it.
    GENERATE_DATA_KEY,
    Call {
        operation: "Decrypt",
        documentation: documentation!("kms/latest/APIReference/API_Decrypt.html"),
        ..GENERATE_DATA_KEY
    },
    // What is replicated is asked in the region that may be lost while it is there, and its copy in the other one.
    Call { function: "backup-trigger", action: Some("take"), home: Home::Primary, blocking: false, ..LIST_OBJECTS },
    Call { function: "backup-trigger", action: Some("take"), home: Home::Primary, blocking: false, ..HEAD_OBJECT },
    Call { function: "backup-trigger", action: Some("take"), home: Home::Secondary, blocking: false, ..HEAD_OBJECT },
    Call { function: "backup-trigger", action: Some("take"), home: Home::Primary, blocking: false, ..GET_OBJECT },
    Call { function: "backup-trigger", action: Some("take"), home: Home::Secondary, blocking: false, ..GET_OBJECT },
    Call { home: Home::Primary, ..GET_METRIC_DATA },
    GET_METRIC_DATA,
    Call { home: Home::Primary, ..DESCRIBE_REPOSITORIES },
    Call { home: Home::Primary, ..DESCRIBE_IMAGES },
    DESCRIBE_REPOSITORIES,
    DESCRIBE_IMAGES,
    // The closure: whether what a failover needs is where it goes to.
    DESCRIBE_KEY,
    DESCRIBE_SECRET,
    Call { home: Home::Secondary, ..DESCRIBE_SECRET },
    Call { function: "backup-trigger", action: Some("take"), ..BATCH_GET_IMAGE },
    Call { function: "backup-trigger", action: Some("take"), blocking: false, ..GET_CALLER_IDENTITY },
    DESCRIBE_CERTIFICATE,
    Call { function: "drctl", action: None, ..DESCRIBE_CERTIFICATE },
    Call { function: "drctl", action: None, ..DESCRIBE_KEY },
    Call { function: "drctl", action: None, ..DESCRIBE_SECRET },
    Call { function: "drctl", action: None, home: Home::Secondary, ..DESCRIBE_SECRET },
    Call { function: "drctl", action: None, ..BATCH_GET_IMAGE },
    Call {
        operation: "CreateDBSnapshot",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CreateDBSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "DescribeDBSnapshots",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "CreateDBClusterSnapshot",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CreateDBClusterSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "DescribeDBClusterSnapshots",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusterSnapshots.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "CopyDBSnapshot",
        home: Home::Tertiary,
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CopyDBSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "CopyDBClusterSnapshot",
        home: Home::Tertiary,
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CopyDBClusterSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    // The request to copy holds another one, signed for the region that the snapshot comes from.
    Call {
        operation: "CopyDBSnapshot",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CopyDBSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "CopyDBClusterSnapshot",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_CopyDBClusterSnapshot.html"),
        ..TAKE_SNAPSHOT
    },
    // The copy is looked at where it is, too.
    Call {
        operation: "DescribeDBSnapshots",
        home: Home::Tertiary,
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBSnapshots.html"),
        ..TAKE_SNAPSHOT
    },
    Call {
        operation: "DescribeDBClusterSnapshots",
        home: Home::Tertiary,
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusterSnapshots.html"),
        ..TAKE_SNAPSHOT
    },
    // Backups that are snapshots are asked for where they are, and deleted there and where they came from.
    DESCRIBE_DB_SNAPSHOTS,
    DESCRIBE_DB_CLUSTER_SNAPSHOTS,
    Call {
        operation: "DescribeDBSnapshotAttributes",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBSnapshotAttributes.html"),
        ..DESCRIBE_DB_SNAPSHOTS
    },
    Call {
        operation: "DescribeDBClusterSnapshotAttributes",
        documentation: documentation!("AmazonRDS/latest/APIReference/API_DescribeDBClusterSnapshotAttributes.html"),
        ..DESCRIBE_DB_SNAPSHOTS
    },
    Call { action: Some("retain"), ..DESCRIBE_DB_SNAPSHOTS },
    Call { action: Some("retain"), ..DESCRIBE_DB_CLUSTER_SNAPSHOTS },
    Call { action: Some("retain"), home: Home::Secondary, ..DESCRIBE_DB_SNAPSHOTS },
    Call { action: Some("retain"), home: Home::Secondary, ..DESCRIBE_DB_CLUSTER_SNAPSHOTS },
    DELETE_DB_SNAPSHOT,
    DELETE_DB_CLUSTER_SNAPSHOT,
    Call { home: Home::Secondary, ..DELETE_DB_SNAPSHOT },
    Call { home: Home::Secondary, ..DELETE_DB_CLUSTER_SNAPSHOT },
    Call { function: "drctl", blocking: false, ..GET_OBJECT },
    Call { function: "drctl", blocking: false, ..PUT_OBJECT },
    Call { function: "drctl", blocking: false, ..DELETE_OBJECT },
    Call { function: "drctl", blocking: false, ..LIST_OBJECTS },
    START_EXECUTION,
    Call {
        operation: "DescribeStateMachine",
        documentation: documentation!("step-functions/latest/apireference/API_DescribeStateMachine.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "ListStateMachines",
        documentation: documentation!("step-functions/latest/apireference/API_ListStateMachines.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "ListExecutions",
        documentation: documentation!("step-functions/latest/apireference/API_ListExecutions.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "StopExecution",
        documentation: documentation!("step-functions/latest/apireference/API_StopExecution.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "RedriveExecution",
        documentation: documentation!("step-functions/latest/apireference/API_RedriveExecution.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "DescribeExecution",
        documentation: documentation!("step-functions/latest/apireference/API_DescribeExecution.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "GetExecutionHistory",
        documentation: documentation!("step-functions/latest/apireference/API_GetExecutionHistory.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "SendTaskSuccess",
        documentation: documentation!("step-functions/latest/apireference/API_SendTaskSuccess.html"),
        ..START_EXECUTION
    },
    Call {
        operation: "SendTaskFailure",
        documentation: documentation!("step-functions/latest/apireference/API_SendTaskFailure.html"),
        ..START_EXECUTION
    },
    DESCRIBE_STACKS,
    Call {
        operation: "DetectStackDrift",
        documentation: documentation!("AWSCloudFormation/latest/APIReference/API_DetectStackDrift.html"),
        ..DESCRIBE_STACKS
    },
    Call {
        operation: "DescribeStackDriftDetectionStatus",
        documentation: documentation!(
            "AWSCloudFormation/latest/APIReference/API_DescribeStackDriftDetectionStatus.html"
        ),
        ..DESCRIBE_STACKS
    },
    Call {
        operation: "DescribeStackResourceDrifts",
        documentation: documentation!("AWSCloudFormation/latest/APIReference/API_DescribeStackResourceDrifts.html"),
        ..DESCRIBE_STACKS
    },
    Call { function: "drctl", blocking: false, ..DESCRIBE_NODEGROUP },
    DESCRIBE_SUBNETS,
    Call {
        operation: "DescribeInstanceTypes",
        documentation: documentation!("AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html"),
        ..DESCRIBE_SUBNETS
    },
    GET_SERVICE_QUOTA,
    Call { home: Home::Secondary, ..GET_SERVICE_QUOTA },
];
