// One process for each image, on whatever Nextflow sends processes to:
//     nextflow run restore.nf --source acquired --target restored
params.source = 'acquired'
params.target = 'restored'

process RESTORE {
    publishDir params.target, mode: 'copy'
    cpus 1
    memory '2 GB'

    input:
    path image

    output:
    path "restored/${image}"

    script:
    """
    restorectl restore '${image}' -o restored -q --offline --threads ${task.cpus}
    """
}

workflow {
    RESTORE(Channel.fromPath("${params.source}/*.tif"))
}
