# `terraform test`: what would be made, with a provider that plays AWS. It needs no account and makes nothing.
mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_eks_cluster" {
    defaults = {
      arn      = "arn:aws:eks:eu-central-1:123456789012:cluster/mizzen"
      identity = [{ oidc = [{ issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/ABC" }] }]
    }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mizzen-store" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/abc" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::mizzen-store-123456789012-eu-central-1" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mizzen" }
  }
}

variables {
  region           = "eu-central-1"
  api_access_cidrs = ["203.0.113.7/32"]
}

run "defaults" {
  command = apply

  assert {
    condition     = length(aws_subnet.private) == 2 && length(aws_nat_gateway.this) == 1
    error_message = "Two zones, one NAT gateway."
  }
  assert {
    condition = length(distinct(concat(
      [for subnet in aws_subnet.private : subnet.cidr_block], [for subnet in aws_subnet.public : subnet.cidr_block]
    ))) == 4
    error_message = "Each subnet has a range of its own."
  }
  assert {
    condition     = one(aws_eks_node_group.gpu.taint).key == "nvidia.com/gpu" && length(aws_eks_node_group.cpu.taint) == 0
    error_message = "GPU nodes are tainted with what the chart's GPU pods tolerate, CPU nodes with nothing."
  }
  assert {
    condition = jsondecode(aws_iam_role.store.assume_role_policy).Statement[0].Condition.StringEquals == {
      "oidc.eks.eu-central-1.amazonaws.com/id/ABC:aud" = "sts.amazonaws.com"
      "oidc.eks.eu-central-1.amazonaws.com/id/ABC:sub" = ["system:serviceaccount:mizzen:mizzen"]
    }
    error_message = "Only the service account of the chart gets the role of the store."
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.store.policy).Statement :
      startswith(statement.Resource, aws_s3_bucket.store.arn) && !strcontains(jsonencode(statement.Action), "*")
    ])
    error_message = "The role reaches that bucket alone, and each action is named."
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.store.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    error_message = "The bucket refuses requests without TLS."
  }
  assert {
    condition     = !aws_s3_bucket.store.force_destroy && aws_s3_bucket_versioning.store.versioning_configuration[0].status == "Enabled"
    error_message = "Nobody loses models by accident."
  }
  assert {
    condition     = yamldecode(output.helm_values).store.url == output.store_url
    error_message = "The values for Helm name the same store as the output for the CLI."
  }
}

run "a_zone_may_fail" {
  command = apply

  variables {
    num_zones    = 3
    nat_per_zone = true
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "A NAT gateway in each zone."
  }
  assert {
    condition = alltrue([
      for zone, table in aws_route_table.private :
      one(table.route).nat_gateway_id == aws_nat_gateway.this[zone].id
    ])
    error_message = "Each private subnet goes out through its own zone."
  }
}

run "no_access_from_outside" {
  command = apply

  variables {
    api_access_cidrs = []
  }

  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "Without addresses, the API is reached from the network alone."
  }
}

run "wrong_values_are_refused" {
  command = plan

  variables {
    name               = "Mizzen!"
    kubernetes_version = "1.20"
    num_zones          = 1
    vpc_cidr           = "10.0.0.0/24"
    service_accounts   = ["*"]
  }

  expect_failures = [
    var.name, var.kubernetes_version, var.num_zones, var.vpc_cidr, var.service_accounts,
  ]
}
