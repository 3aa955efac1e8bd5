function __comfytunnel_ask
    env _COMFYTUNNEL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] _TYPER_COMPLETE_ARGS=(commandline -cp) comfytunnel 2>/dev/null
end
complete -c comfytunnel -f -n '__comfytunnel_ask is-args' -a '(__comfytunnel_ask get-args)'
