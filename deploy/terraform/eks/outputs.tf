output "kubeconfig_command" {
  description = "Adds the cluster to your kubeconfig."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${aws_eks_cluster.this.name}"
}

output "image_repository" {
  description = "Where the image is pushed to."
  value       = aws_ecr_repository.image.repository_url
}

output "registry" {
  description = "The registry's address, for `docker login`."
  value       = split("/", aws_ecr_repository.image.repository_url)[0]
}

output "region" {
  description = "The region, for the commands of the runbook."
  value       = var.region
}

output "bucket" {
  description = "The store's bucket."
  value       = aws_s3_bucket.store.bucket
}

output "store_url" {
  description = "The store's address, for MIZZEN_STORE on your machine."
  value       = "s3://${aws_s3_bucket.store.bucket}/store"
}

output "store_role_arn" {
  description = "The role of the pods' service accounts."
  value       = aws_iam_role.store.arn
}

output "helm_values" {
  description = "Values of Mizzen's chart for this cluster: terraform output -raw helm_values > eks-values.yaml"
  value = yamlencode({
    image          = { repository = aws_ecr_repository.image.repository_url }
    store          = { url = "s3://${aws_s3_bucket.store.bucket}/store" }
    env            = [{ name = "AWS_REGION", value = var.region }]
    serviceAccount = { annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.store.arn } }
    jobs           = { gpuWorker = { nodeSelector = { "mizzen.dev/nodes" = "gpu" } } }
  })
}
